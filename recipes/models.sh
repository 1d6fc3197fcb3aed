# Small models, folders with a config.json alone: encoder FOLDER VOCABULARY POSITIONS, encoder_decoder FOLDER VOCABULARY

encoder() {
	mkdir -p "$1"
	cat >"$1/config.json" <<-END
		{"model_type": "bert", "vocab_size": $2, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
		 "intermediate_size": 128, "max_position_embeddings": $3, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
	END
}

encoder_decoder() {
	mkdir -p "$1"
	cat >"$1/config.json" <<-END
		{"model_type": "t5", "vocab_size": $2, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
		 "dropout_rate": 0, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
	END
}

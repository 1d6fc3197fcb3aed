#!/bin/sh
# Sentiment: an encoder learns to tell good opinions from bad ones, negations included.
. "$(dirname -- "$0")/setup.sh"

recipe sentiment make
mkdir -p bert
cat >bert/config.json <<END
{"model_type": "bert", "vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
 "intermediate_size": 128, "max_position_embeddings": 64,
 "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
END

banyan prepare data.input=train.jsonl data.output=train data.format=labelled data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.train.vocab_size=400 'data.labels=[negative,positive]'
banyan prepare data.input=test.jsonl data.output=test data.format=labelled data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.path=train 'data.labels=[negative,positive]'
banyan finetune objective=classify model.path=bert data.path=train 'data.validation.test={path: test/train}' \
	data.sequence_length=64 train.epochs=8 train.batch_size=32 optimizer.lr=2e-3 run.name=sentiment
banyan export run.dir=runs/sentiment export.output=exported
recipe sentiment compare

#!/bin/sh
# Translation from English to Chinese: an encoder-decoder learns pairs.
. "$(dirname -- "$0")/setup.sh"

recipe translation make
banyan prepare data.input=train.jsonl data.output=train data.format=seq2seq data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.train.vocab_size=500
banyan prepare data.input=test.jsonl data.output=test data.format=seq2seq data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.path=train
encoder_decoder t5 500
banyan finetune objective=seq2seq model.path=t5 data.path=train 'data.validation.test={path: test/train}' \
	data.sequence_length=48 train.epochs=3 train.batch_size=32 train.precision=fp32 optimizer.lr=5e-3 track.every=50 run.name=translation
banyan generate run.dir=runs/translation prompts=prompts.jsonl output=answers.jsonl temperature=0 max_tokens=48
recipe translation compare

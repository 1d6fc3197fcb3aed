#!/bin/sh
# Sentiment: an encoder learns to tell good opinions from bad ones, negations included.
. "$(dirname -- "$0")/setup.sh"

recipe sentiment make
banyan prepare data.input=train.jsonl data.output=train data.format=labelled data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.train.vocab_size=400 'data.labels=[negative,positive]'
banyan prepare data.input=test.jsonl data.output=test data.format=labelled data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.path=train 'data.labels=[negative,positive]'
encoder bert 400 64
banyan finetune objective=classify model.path=bert data.path=train 'data.validation.test={path: test/train}' \
	data.sequence_length=64 train.epochs=3 train.batch_size=32 train.precision=fp32 optimizer.lr=2e-3 track.every=50 run.name=sentiment
banyan export run.dir=runs/sentiment export.output=exported
recipe sentiment compare

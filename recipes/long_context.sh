#!/bin/sh
# A long-context stage: trained on rows of 128 tokens that grow from 32, then on rows of 512 with positions stretched.
. "$(dirname -- "$0")/setup.sh"

recipe long_context make
banyan prepare data.input=train.jsonl data.output=text data.validation_fraction=0 data.tokenizer.train.vocab_size=2000
banyan prepare data.input=test.jsonl data.output=test data.validation_fraction=0 data.tokenizer.path=text
banyan pretrain data.path=text 'data.validation.test={path: test/train}' model.hidden_size=128 model.intermediate_size=352 \
	model.num_hidden_layers=2 data.sequence_length=128 'data.length_ramp.short={until_tokens: 50_000, sequence_length: 32}' \
	train.tokens=300_000 train.batch_size=16 'train.batch_ramp.small={until_tokens: 100_000, batch_size: 8}' \
	train.precision=fp32 optimizer.lr=6e-3 schedule.warmup_steps=10 track.every=50 evaluate.every=1000 evaluate.rows=40 \
	evaluate.prompt=null run.name=short

longer() { # longer NAME KEY=VALUE …: the same weights on rows four times as long
	name=$1
	shift
	banyan pretrain model.init_from=runs/short model.extend_context=true data.path=text \
		'data.validation.test={path: test/train}' data.sequence_length=512 train.steps=15 train.batch_size=4 \
		train.precision=fp32 optimizer.lr=1e-3 schedule.warmup_steps=5 track.every=15 evaluate.at_start=true \
		evaluate.every=1000 evaluate.rows=10 evaluate.prompt=null run.name="$name" "$@"
}
longer yarn 'model.rope_scaling={type: yarn, factor: 4, original_max_position_embeddings: 128}'
longer linear 'model.rope_scaling={type: linear, factor: 4}'
longer theta model.rope_theta=100000
longer plain
banyan export run.dir=runs/yarn export.output=exported
recipe long_context compare

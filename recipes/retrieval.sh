#!/bin/sh
# Retrieval: an encoder learns by masks which words go together, and finds texts that share no word with the query.
. "$(dirname -- "$0")/setup.sh"

recipe retrieval make
banyan prepare data.input=train.jsonl data.output=text data.deduplicate=false data.validation_fraction=0.02 \
	data.tokenizer.train.vocab_size=400
encoder bert 401 64
for steps in 1 200; do # of which the first has learnt next to nothing
	banyan pretrain objective=masked model.path=bert data.path=text data.sequence_length=64 train.steps=$steps train.precision=fp32 \
		train.batch_size=32 optimizer.lr=3e-3 track.every=50 evaluate.prompt=null run.name=masked-$steps
	banyan export run.dir=runs/masked-$steps export.output=exported-$steps
done
banyan explain retrieval path=exported-1 pairs=pairs.jsonl 'recall_at=[1,10]' output=found-untrained
banyan explain retrieval path=exported-200 pairs=pairs.jsonl 'recall_at=[1,10]' output=found
recipe retrieval compare

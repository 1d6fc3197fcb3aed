#!/bin/sh
# Dialogue: a decoder learns the answers of talks, and is talked to.
. "$(dirname -- "$0")/setup.sh"

recipe dialogue make
banyan prepare data.input=train.jsonl data.output=chat data.format=chat data.deduplicate=false \
	data.validation_fraction=0.02 data.tokenizer.train.vocab_size=500
banyan pretrain data.path=chat data.packing=whole data.sequence_length=128 model=tiny model.hidden_size=96 \
	model.intermediate_size=192 model.num_hidden_layers=3 train.epochs=2 train.steps=null train.precision=fp32 train.batch_size=32 \
	optimizer.lr=3e-3 track.every=50 evaluate.bigram=false evaluate.prompt=null run.name=dialogue
banyan generate run.dir=runs/dialogue prompts=prompts.jsonl output=answers.jsonl temperature=0 max_tokens=40
echo "+ banyan chat run.dir=runs/dialogue temperature=0"
printf '%s\n' "Hello, I am Clara." "two coffee, please." "The bill, please." |
	"$python" -m launch chat run.dir=runs/dialogue temperature=0 max_tokens=40
recipe dialogue compare

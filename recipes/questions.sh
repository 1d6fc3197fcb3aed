#!/bin/sh
# Question answering: a decoder learns to answer from what it is told.
. "$(dirname -- "$0")/setup.sh"

recipe questions make
mkdir -p tasks
cp "$root/recipes/questions.yaml" test.jsonl tasks/
banyan prepare data.input=train.jsonl data.output=train data.format=prompt_completion data.deduplicate=false \
	data.validation_fraction=0.02 data.tokenizer.train.vocab_size=400
banyan pretrain data.path=train data.packing=whole data.sequence_length=128 model=tiny model.hidden_size=96 \
	model.intermediate_size=192 model.num_hidden_layers=3 train.epochs=4 train.steps=null train.precision=fp32 train.batch_size=32 \
	optimizer.lr=3e-3 track.every=50 evaluate.bigram=false evaluate.prompt=null run.name=questions
banyan evaluate run.dir=runs/questions evaluate.tasks=[questions] evaluate.task_dir=tasks evaluate.output=judged
banyan generate run.dir=runs/questions temperature=0 max_tokens=6 \
	prompt="Anna keeps the lamp in Riga. To Oslo Bert sent the drum.
Whose is the lamp?
Answer:"
recipe questions compare

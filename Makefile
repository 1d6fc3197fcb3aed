# make setup   install into .venv and build DeepSpeed's CPU op
# make train   set up, then the main job: prepare the standard library's source and pretrain a small model on it
# make test    set up, check, then the tests (minutes); make test-full: long matrices and abuse as well
# make check   formatting, lint, types
# make bench  how fast it is here, in ten minutes without peers: a table and a line to quote
# make bench-compare   that against the baseline of the same device (ARGS=--accept makes it one); BASE=rev: training speed
#              against another revision's
# make gpu-first   what to run first on a GPU, as one table
# make bench-cpu, bench-gpu, bench-loss, bench-data, bench-prepare, bench-start, bench-watching   speed, side by side with others
#              (docs/PERFORMANCE.md);
#              bench-checkpoint: what a checkpoint's index costs a rank of thousands;
#              bench-serve: servers under load (docs/SERVING.md);
#              make peers installs those others, each in an environment of its own
#              More arguments in ARGS, as ARGS="--contest fp32 --rounds 12" or ARGS=--help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --no-compile -q -c constraints.txt

.PHONY: setup train test test-full check format clean peers bench gpu-first bench-cpu bench-gpu bench-loss bench-data bench-prepare bench-start \
	bench-checkpoint bench-serve bench-watching bench-compare

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a minute or two"
	$(INSTALL) -e .
	$(BIN)/python -m trainer.ranks.warm_up
	@touch $@

$(VENV)/.ready-for-tests: $(VENV)/.ready
	$(INSTALL) -e ".[dev]"
	@touch $@

train: setup
	$(BIN)/banyan prepare
	$(BIN)/banyan pretrain

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-full: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --full

check: $(VENV)/.ready-for-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.ready-for-tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

peers:
	tests/benchmarks/peers.sh

bench-cpu bench-gpu bench-loss bench-data bench-prepare bench-start bench-checkpoint bench-serve bench-watching: bench-%: $(VENV)/.ready
	$(BIN)/python -m tests.benchmarks.$* $(ARGS)

bench: $(VENV)/.ready
	$(BIN)/python -m tests.benchmarks.bench $(ARGS)

gpu-first: $(VENV)/.ready
	$(BIN)/python -m tests.benchmarks.gpu_first $(ARGS)

bench-compare: $(VENV)/.ready
	$(BIN)/python -m tests.benchmarks.$(if $(BASE),compare $(BASE),baseline) $(ARGS)

clean:
	rm -rf $(VENV) data runs build

# make setup   install into .venv and warm DeepSpeed's CPU op
# make train   set up, then the main job: prepare the standard library's source and pretrain a small model on it
# make test    set up, then the tests (a few minutes); make test-full: long matrices and abuse as well
# make check   formatting, lint, types

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup train test test-full check format clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -e ".[dev]" -c constraints.txt
	$(BIN)/python -m trainer.engine.warm_up
	touch $(INSTALLED)

train: setup
	$(BIN)/banyan prepare
	$(BIN)/banyan pretrain

test: setup check
	$(BIN)/python -m pytest

test-full: setup check
	$(BIN)/python -m pytest --full

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) data runs

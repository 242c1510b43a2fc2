# Every target sets up what it needs, in .venv, and says what it does.
#
# PyTorch is installed first, with $(TORCH_FLAGS), so that a CPU-only or CUDA build can be chosen:
# see "Installation" in the README.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_FLAGS ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench clean help

help:
	@echo "make demo   install, then train, judge and use a recognizer on synthetic speech"
	@echo "make test   install, then run the tests"
	@echo "make lint   install, then run the linters"
	@echo "make bench  install, then print speed ratios"
	@echo "make clean  remove the virtual environment and the demo"

demo: $(VENV)/.ready-demo
	@echo "== serkit demo"
	$(BIN)/serkit demo

test: $(VENV)/.ready-dev
	@echo "== tests (without those marked slow; SERKIT_CORPORA=$(SERKIT_CORPORA))"
	$(BIN)/python -m pytest -m "not slow and not gpu and not network"

lint: $(VENV)/.ready-dev
	@echo "== ruff, mypy, import-linter, codespell"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs benchmarks README.md CHANGELOG.md CONTRIBUTING.md

# Foreign tools are installed once, each in an environment of its own below the cache of serkit;
# what cannot be installed or found is named and left out. BENCH= measures longer.
BENCH ?= --quick

bench: $(VENV)/.ready-dev
	@echo "== benchmarks: ratios measured in this run ($(BENCH); SERKIT_CORPORA=$(SERKIT_CORPORA))"
	$(BIN)/python benchmarks/mfcc.py
	$(BIN)/python benchmarks/data_path.py $(BENCH)
	$(BIN)/python benchmarks/timnet_step.py
	$(BIN)/python benchmarks/compiled_parts.py
	$(BIN)/python benchmarks/timnet_cohort.py $(BENCH)
	$(BIN)/python benchmarks/emodb_loso.py $(BENCH)

clean:
	rm -rf $(VENV) demo

$(VENV)/.torch: constraints.txt
	@echo "== virtual environment $(VENV), PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_FLAGS) torch
	@touch $@

$(VENV)/.ready-demo: $(VENV)/.torch pyproject.toml
	@echo "== serkit with the extra 'demo'"
	$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.torch pyproject.toml
	@echo "== serkit with the extras 'demo', 'keras-weights' and 'dev'"
	$(PIP) --editable ".[demo,keras-weights,dev]"
	@touch $@ $(VENV)/.ready-demo

# Two commands do everything on a fresh machine with Python >= 3.11: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One worker a core: each keeps to one thread, so that tests do not fight for the cores.
CORES := $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())")

.PHONY: demo test test-slow lint bench clean install

demo: install  ## set up, then run the main job on real digits: search, front, export, report
	$(BIN)/niwaki search quickstart --to runs/demo-$$(date +%Y%m%d-%H%M%S)

test: install  ## set up, then pass the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) --dist loadscope

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) -m slow

lint: install
	$(BIN)/ruff check . && $(BIN)/mypy

bench: install  ## every claim of the README: a table and a JSON file each, under runs/bench
	$(BIN)/pip install -q -e ".[bench]"
	set -e; for f in benchmarks/[a-z]*.py; do $(BIN)/python $$f; done

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('niwaki needs Python >= 3.11, this is %d.%d: make PYTHON=python3.12 ...' % sys.version_info[:2] if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -e ".[test,lint]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

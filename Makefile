# One verb per need, the same on a laptop and in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEWER := .venv-newer

.PHONY: dev demo test test-all test-often test-newer lint tables bench-smoke examples

dev: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "TriggerLens needs Python 3.11 to 3.13; set PYTHON=python3.11, say."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -qq --workers 0 $(VENV)/lib || true # what pip does on one core; examples may not compile
	@touch $@

demo: dev
	@$(BIN)/python examples/demo.py

test: dev
	$(BIN)/python -m tests.suite fast

test-all: test
	$(BIN)/python -m tests.suite slow

# Everything N times beside busy processes, real and threaded tests ten times; goes on with tests-often.jsonl.
test-often: dev
	$(BIN)/python -m tests.suite often --runs $(or $(N),3)

# The newest of everything that the ranges in pyproject.toml and the installer allow; a torch that it lists and cannot
# fetch gives way to the pinned one. What is there already is not fetched again.
NEWEST := $(NEWER)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
test-newer:
	test -d $(NEWER) || $(PYTHON) -m venv $(NEWER)
	$(NEWEST) || $(NEWEST) $$(grep -E '^torch(vision)?==' constraints.txt)
	$(NEWER)/bin/python -m tests.newer
	$(NEWER)/bin/python -m tests.suite fast

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

examples: dev
	$(BIN)/python -m benchmarks.victims.sample

tables: dev
	$(BIN)/python -m benchmarks.tables

bench-smoke: dev
	$(BIN)/python -m pytest tests/benchmarks/test_smoke.py -n 2

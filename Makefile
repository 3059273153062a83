# `make demo` and `make test` are all that a newcomer needs; each sets up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# Two workers with one thread each: torch would otherwise start a thread per core in both.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2

MAKEFLAGS += --no-print-directory
.PHONY: setup demo demo-seeds test test-all check docs clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    echo "upweight needs Python 3.11 to 3.13, but $(PYTHON) is '$$($(PYTHON) --version 2>&1 | tail -n 1)';" \
	         "name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into .venv (once; torch is large)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) torch==2.13.0
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -e ".[dev]"
	@touch $@

demo: setup
	@$(BIN)/upweight pipeline examples/demo.toml

demo-seeds: setup
	@$(BIN)/python bench/demo_seeds.py

test: setup
	@$(PYTEST) -m "not slow"

test-all: setup
	@$(PYTEST)

# Losses and gradients compared with TRL's, in an environment of its own: TRL is no dependency.
.PHONY: test-trl
test-trl: .venv-trl/.installed
	@OMP_NUM_THREADS=1 .venv-trl/bin/pytest -q -n 2 tests/agreement

.venv-trl/.installed: pyproject.toml constraints.txt
	@echo "installing TRL into .venv-trl (once; torch is large)"
	@test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	@$(PIP:$(BIN)/%=.venv-trl/bin/%) torch==2.13.0
	@$(PIP:$(BIN)/%=.venv-trl/bin/%) hatchling editables
	@$(PIP:$(BIN)/%=.venv-trl/bin/%) --no-build-isolation -e ".[dev]" trl==1.16.0
	@touch $@

check: setup
	@$(BIN)/ruff check -q
	@$(BIN)/ruff format -q --check
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@$(PYTEST) -m "not slow" tests/math tests/unit

# Small mistakes made in objectives/, one at a time: does tests/math notice? Goes on where it was interrupted.
.PHONY: mutate
mutate: setup
	@OMP_NUM_THREADS=1 $(BIN)/python bench/mutate.py

# Speed against TRL, transformers and vLLM, each in an environment of its own: see docs/benchmarks.md.
.PHONY: bench bench-quick bench-full
bench: setup
	@$(BIN)/python -m bench standard

bench-quick: setup
	@$(BIN)/python -m bench quick

bench-full: setup
	@$(BIN)/python -m bench full

docs: setup
	@$(BIN)/python docs/build.py

# Leaves runs/ alone: results are the user's.
clean:
	@rm -rf .venv .venv-trl .bench build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The commands of this repository. `make` lists them.
PYTHON ?= python3
ARGS ?=
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
RUN := $(VENV)/bin/python
# A moved or copied environment still points to the old place: the stamps carry the place they are for.
PLACE := $(shell pwd | cksum | cut -d ' ' -f 1)
PLATFORM_STAMP := $(VENV)/.platform-$(PLACE)
TEST_STAMP := $(VENV)/.test-$(PLACE)
PIP_INSTALL := $(RUN) -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/.test-$(PLACE)

.PHONY: help
help: ## List these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=python3 (3.11 or newer, makes $(VENV)); ARGS='key=value ...' for sweep, ARGS=--help for mutants; TEST_PROCESSES=2 for test, test-quick."

.PHONY: sweep
sweep: $(PLATFORM_STAMP) ## From nothing to a front: videos, backbones, features, search (ARGS= for overrides)
	@$(VENV)/bin/paretovid sweep $(ARGS)

# Groups of tests, the longest first (tests/conftest.py).
SHARED_OUT := -n $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

.PHONY: test
test: $(TEST_STAMP) ## All checks and tests, as CI runs them
	@$(RUN) -m pytest --durations=20 $(SHARED_OUT) --beside '$(MAKE) --no-print-directory lint'

.PHONY: test-quick
test-quick: $(TEST_STAMP) ## Only the tests that need neither a Ray cluster nor much time
	@$(RUN) -m pytest $(SHARED_OUT) -m "not ray and not slow"

# RAY_AUTH_MODE: the oldest Ray asks for a token only where it is told to.
.PHONY: test-lowest
test-lowest: $(LOWEST_STAMP) ## The quick tests and a sweep on the lowest versions in pyproject.toml, in .venv-lowest
	@RAY_AUTH_MODE=token $(LOWEST)/bin/python -m pytest $(SHARED_OUT) -m "not ray and not slow"
	@RAY_AUTH_MODE=token $(LOWEST)/bin/python -m pytest tests/platform_tests/test_sweep.py

.PHONY: mutants
mutants: $(TEST_STAMP) ## Small wrong changes of the modules that carry the promises: do the tests notice? (ARGS=)
	@OMP_NUM_THREADS=1 $(RUN) -m tests.mutants $(ARGS)

.PHONY: lint
lint: $(TEST_STAMP) ## Style and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

.PHONY: clean
clean: ## Remove caches and build products; keeps .venv and paretovid-home
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	@find platform trainables search_spaces infra tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo "make: $(PYTHON) is not there. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed; $(PYTHON) is $$('$(PYTHON)' --version 2>&1)." >&2; \
	  echo "  hint: name a newer one: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@echo "Making a virtual environment in $(VENV) with $$('$(PYTHON)' --version)."
	@'$(PYTHON)' -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "make: no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }

$(PLATFORM_STAMP): pyproject.toml constraints.txt | $(RUN)
	@echo "Installing paretovid into $(VENV): about 7 GB, 2 to 10 minutes the first time."
	@$(PIP_INSTALL) -e '.[platform]'
	@touch $@

$(TEST_STAMP): $(PLATFORM_STAMP)
	@echo "Installing what the tests need into $(VENV)."
	@$(PIP_INSTALL) -e '.[platform,test]'
	@touch $@

# Made anew each time pyproject.toml changes: pip does not go back to a lower version of what nobody pins.
$(LOWEST_STAMP): pyproject.toml tests/lowest.py | $(RUN)
	@echo "Installing the lowest versions into $(LOWEST): about 7 GB, 4 to 10 minutes."
	@rm -rf $(LOWEST)
	@'$(PYTHON)' -m venv $(LOWEST)
	@'$(PYTHON)' -m tests.lowest >$(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip install --quiet --quiet --disable-pip-version-check -c $(LOWEST)/constraints.txt \
	  -e '.[platform,test,consume,motion,flow,paper,s3,postgres,server]'
	@touch $@

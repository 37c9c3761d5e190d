# make quickstart | make test | make test-slow | make test-faults | make lint | make clean
# VENV=PATH reuses an environment; PYTHON=PATH picks the interpreter of a new one.

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETTINGS ?= experiments/quickstart/settings.toml

# An environment serves one checkout at a time: each stamp holds the checkout it was made for.
RUN_STAMP := $(VENV)/.autocompress-run
DEV_STAMP := $(VENV)/.autocompress-dev
STALE := $(foreach stamp,$(RUN_STAMP) $(DEV_STAMP),$(if $(filter $(CURDIR),$(shell cat $(stamp) 2>/dev/null)),,$(stamp)))

.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow test-faults lint clean $(STALE)

help:
	@echo "make quickstart   search, prune and shrink a small CNN (1 to 2 minutes after installation)"
	@echo "make test         lint, types, import layers and all tests"
	@echo "make test-slow    the slow tests only, two at a time"
	@echo "make test-faults  kill, starve and cut off searches on Ray and PostgreSQL"
	@echo "make lint         lint, types and import layers"
	@echo "make clean        remove caches and build files"
	@echo "VENV=PATH reuses an environment; PYTHON=PATH picks the interpreter of a new one"

# One thread: two that wait for each other crawl as soon as anything else runs.
quickstart: $(RUN_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/autocompress search $(SETTINGS)

test: lint
	$(BIN)/python -m pytest
	$(MAKE) test-slow

test-slow: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --timeout 600

# Parts that need root, PostgreSQL or Ray say so when they are skipped; totals come last.
test-faults: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults -m "" -n 2 --timeout 600

lint: $(DEV_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

$(RUN_STAMP): pyproject.toml | $(BIN)/pip
	@echo "installing autocompress into $(VENV): minutes on the first time, up to 6.5 GB"
	@rm -f $(RUN_STAMP) $(DEV_STAMP)
	@$(PIP) install --quiet --editable .
	@echo "$(CURDIR)" > $@

$(DEV_STAMP): pyproject.toml | $(BIN)/pip
	@echo "installing autocompress[dev] into $(VENV): minutes on the first time, up to 6.5 GB"
	@rm -f $(RUN_STAMP) $(DEV_STAMP)
	@$(PIP) install --quiet --editable '.[dev]'
	@echo "$(CURDIR)" > $(RUN_STAMP)
	@echo "$(CURDIR)" > $@

# A name on PATH may be a shim without an interpreter behind it, so each one is tried.
$(BIN)/pip:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
		"$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
			2>/dev/null || continue; \
		echo "making $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv "$(VENV)"; exit $$?; \
	done; \
	echo "autocompress needs Python 3.11, 3.12 or 3.13 with venv, and none was found" >&2; \
	echo "install one (Debian and Ubuntu: apt install python3-venv) or name it: make PYTHON=PATH" >&2; \
	exit 1

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find autocompress tests experiments -name __pycache__ -prune -exec rm -rf {} +

# Every target makes the environment it needs, once; `make help` lists them.
# A stamp in .venv says which extras are installed, so a second call does no work.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2

.PHONY: help demo test nightly lint types contract bench docs clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.extra-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing sparsekd_jax[$*] into $(VENV) ..."
	$(PIP) --editable '.[$*]'
	@touch $@

demo: $(VENV)/.extra-plots ## The main job: digits, dense teacher -> 95 % sparse student; writes out/demo/report.html
	$(BIN)/sparsekd distill --data digits --out out/demo

test: $(VENV)/.extra-dev ## Unit, property and doc tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

nightly: $(VENV)/.extra-dev ## The tests with long Hypothesis searches
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --nightly

lint: $(VENV)/.extra-dev ## Style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.extra-dev ## Types (mypy)
	$(BIN)/mypy

contract: $(VENV)/.extra-dev ## The import arrows of the house (import-linter)
	$(BIN)/lint-imports

bench: $(VENV)/.extra-bench $(VENV)/.extra-dev ## Time everything on this machine; writes the committed tables
	$(BIN)/sparsekd bench --json benchmarks/results.json --markdown benchmarks/results.md --figure docs/figures/roofline.svg

docs: $(VENV)/.extra-docs ## Redraw the figures and tables from a run, then build the site strictly
	$(BIN)/python docs/build_pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove what the targets made
	rm -rf $(VENV) out site dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Every target makes the environment it needs, once; `make help` lists them.
# A stamp in .venv says which extras are installed, so a second call does no work.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
WORKERS ?= 2

.PHONY: help demo test test-oldest test-notebooks nightly coverage mutants lint types contract wheel bench docs site notebooks clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.extra-%: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing sparsekd_jax[$*] into $(VENV) ..."
	$(PIP) --editable '.[$*]'
	@touch $@

demo: $(VENV)/.extra-plots ## The main job: digits, dense teacher -> 95 % sparse student; writes out/demo/report.html
	$(BIN)/sparsekd distill --data digits --out out/demo

test: $(VENV)/.extra-dev ## Unit, property and doc tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

nightly: $(VENV)/.extra-dev ## The tests with long Hypothesis searches
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --nightly

# What a user depends on at the oldest version that pyproject.toml admits. The warnings of those are not ours; and what is
# not tried counts the steps of a search, which hang on the last bits of XLA: two of 36,000 rows bisect there, to the
# same q.
build/oldest.txt: pyproject.toml
	mkdir -p build
	$(PYTHON) -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  extras = project['optional-dependencies']; \
	  oldest = project['dependencies'] + extras['plots'] + extras['targets']; \
	  print(*(each.replace('>=', '==') for each in oldest), sep='\n')" > $@

test-oldest: build/oldest.txt ## The tests with the oldest versions that pyproject.toml admits (Python 3.11 or 3.12)
	PYTEST_ADDOPTS="--override-ini filterwarnings=default --deselect \
	  'tests/operators/test_roots.py::test_a_hundred_thousand_points_converge_in_few_steps[tsallis(4)]'" \
	  $(MAKE) test VENV=.venv-oldest CONSTRAINTS=build/oldest.txt

test-notebooks: $(VENV)/.extra-dev ## Run the notebooks and compare what they print with what is committed
	XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0" \
	  $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile notebooks

coverage: $(VENV)/.extra-dev ## The tests, and which lines of the package they never reach
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --cov --cov-report term

# Changes the operator's file in place, so it works in a clone of what is committed. A survivor is a line that no test
# would miss, or an expression that has more than one right form.
FAMILY ?= power
TESTS ?= $(firstword $(subst _, ,$(FAMILY)))
mutants: $(VENV)/.extra-dev $(VENV)/.extra-mutants ## Nightly: mutate one operator family, and list what no test sees
	rm -rf build/mutants
	git clone --quiet . build/mutants
	cd build/mutants && sed 's/FAMILY/$(FAMILY)/; s/TESTS/$(TESTS)/' tests/mutants.toml > session.toml
	cd build/mutants && export PATH="$(abspath $(BIN)):$$PATH" && cosmic-ray baseline session.toml \
	  && cosmic-ray init session.toml session.sqlite && cr-filter-operators session.sqlite session.toml \
	  && cosmic-ray exec session.toml session.sqlite \
	  && cr-report --surviving-only --show-diff session.sqlite

lint: $(VENV)/.extra-dev ## Style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.extra-dev ## Types (mypy)
	$(BIN)/mypy

contract: $(VENV)/.extra-dev ## The import arrows of the house (import-linter)
	$(BIN)/lint-imports

# What is installed must work without the tree beside it; WHEEL_TESTS=tests runs everything against the wheel.
WHEEL_TESTS ?= tests/test_package.py tests/test_cli_axioms.py tests/test_cli_compare.py tests/plots
wheel: $(VENV)/.extra-dev ## Build sdist and wheel in dist/, and run tests against the wheel
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	tar tzf dist/*.tar.gz | grep -q '^[^/]*/notebooks/'
	$(PIP) --no-deps --target build/installed dist/*.whl
	cp -r tests docs benchmarks pyproject.toml README.md build
	cd build && PYTHONPATH=installed ../$(BIN)/python -c \
	  "import sparsekd_jax as s; assert '/build/installed/' in s.__file__, s.__file__"
	cd build && PYTHONPATH=installed ../$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(WHEEL_TESTS)

bench: $(VENV)/.extra-bench $(VENV)/.extra-dev ## Time everything on this machine; writes the committed tables
	$(BIN)/sparsekd bench --json benchmarks/results.json --markdown benchmarks/results.md --figure docs/figures/roofline.svg
	$(BIN)/python -m benchmarks.goals

docs: $(VENV)/.extra-docs ## Redraw the figures and tables from a run, then build the site strictly
	$(BIN)/python docs/build_pages.py
	$(MAKE) site

site: $(VENV)/.extra-docs ## Build the site strictly from what is committed, with no network
	@# Not --quiet: it hides warnings from the count that makes --strict fail.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(VENV)/.extra-notebooks ## Run the notebooks in place, outputs and all
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

clean: ## Remove what the targets made
	rm -rf $(VENV) out site dist build .cache .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

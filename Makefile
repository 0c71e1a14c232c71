# `make quickstart` and `make test` do everything on a machine with Python
# 3.11-3.13 (with venv) and make; choose the interpreter with PYTHON=python3.12.

PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(if $(shell \
  python$(v) -c 'import venv' 2>/dev/null && echo yes),python$(v),)) python3)
VENV ?= .venv
BIN = $(VENV)/bin
LINT = $(VENV)-lint/bin
DOCS = $(VENV)-docs/bin
PYTEST = $(BIN)/python -m pytest
# Reordered, files of one long test would be left for the end.
TWO_WORKERS = -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL = help
.PHONY: help quickstart test check lint format docs links lock soak fuzz clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

# The stamp names the extras, so that asking for more installs more.
$(VENV)/.installed-%: setup.py pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing dss_jax[$*] into $(VENV) (a few minutes, 3.5 GB) ..."
	@$(BIN)/python -m pip install -q --upgrade 'pip>=24'
	@# setuptools warns of every editable installation, in a large box.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -e '.[$*]'
	@touch $@

quickstart: $(VENV)/.installed-report ## install, train and compare on the built-in dataset
	$(BIN)/dss-jax quickstart $(ARGS)

test: $(VENV)/.installed-dev ## the tests that this machine can run, but thorough ones
	$(PYTEST) $(TWO_WORKERS) -m 'not (thorough or soak)' $(ARGS)

# Half a minute to install: neither TensorFlow nor JAX's compiled half is needed.
$(VENV)-lint/.installed: pyproject.toml
	@test -x $(LINT)/python || $(PYTHON) -m venv $(VENV)-lint
	@$(LINT)/python -m pip install -q --upgrade 'pip>=25.1'
	@$(LINT)/python -m pip install -q --no-deps --group lint
	@touch $@

lint: $(VENV)-lint/.installed ## format, lint and types, in under a minute
	$(LINT)/ruff format --check .
	$(LINT)/ruff check .
	$(LINT)/pyright --threads --pythonpath $(LINT)/python

# Importing TensorFlow, in each process, takes longer than most tests.
CHECK_LEAVES_OUT = --ignore=tests/data/seqio/tasks_test.py \
  --ignore=tests/data/seqio/materialization_test.py

check: lint $(VENV)/.installed-dev ## lint, and the fast tests, in about 2 minutes
	$(PYTEST) $(TWO_WORKERS) -q -m 'not (slow or thorough or soak or shared or hf)' $(CHECK_LEAVES_OUT) $(ARGS)

# Half a minute to install: dss_jax itself is read, not imported.
$(VENV)-docs/.installed: pyproject.toml
	@test -x $(DOCS)/python || $(PYTHON) -m venv $(VENV)-docs
	@$(DOCS)/python -m pip install -q --upgrade 'pip>=25.1'
	@$(DOCS)/python -m pip install -q --group docs
	@touch $@

# Links between pages are part of the build; those to other places need network.
SPHINX = $(DOCS)/python -m sphinx --conf-dir docs --doctree-dir build/docs-trees \
  --fail-on-warning --nitpicky --keep-going $(ARGS)

docs: $(VENV)-docs/.installed ## the documentation site, in build/docs
	$(SPHINX) --builder html . build/docs

links: $(VENV)-docs/.installed ## whether the pages' links to other places work
	$(SPHINX) --builder linkcheck . build/links

format: $(VENV)-lint/.installed ## rewrite the sources in the project's format
	$(LINT)/ruff format .
	$(LINT)/ruff check --fix .

# Beam and Ray hold back versions of what the others use, as their environments do.
COMPILE = $(LINT)/uv pip compile --quiet --universal --python-version 3.11 \
  --no-annotate --custom-compile-command 'make lock' pyproject.toml
TOGETHER = tpu cuda12 cuda13 report teacher serve hf export dev

lock: $(VENV)-lint/.installed ## pin the newest versions in range, in requirements/
	$(COMPILE) $(TOGETHER:%=--extra %) --upgrade -o requirements/locked.txt
	$(COMPILE) --extra beam --upgrade -o requirements/locked_beam.txt
	$(COMPILE) --extra ray --upgrade -o requirements/locked_ray.txt

# Other signals, and more: make soak SIGNALS=200 SEED=7
SIGNALS ?= 50
SEED ?= $(shell date +%s)

soak: $(VENV)/.installed-dev ## kill and stop a run at random moments, in half an hour
	DSS_SOAK_SIGNALS=$(SIGNALS) DSS_SOAK_SEED=$(SEED) \
	  $(PYTEST) -m soak tests/training/soak_test.py $(ARGS)

# Atheris has no part in the other environments.
FUZZ = $(VENV)-fuzz/bin
$(VENV)-fuzz/.installed: setup.py pyproject.toml
	@test -x $(FUZZ)/python || $(PYTHON) -m venv $(VENV)-fuzz
	@$(FUZZ)/python -m pip install -q --upgrade 'pip>=25.1'
	PYTHONWARNINGS=ignore $(FUZZ)/python -m pip install -q -e '.[serve,teacher]' --group fuzz
	@touch $@

fuzz: $(VENV)-fuzz/.installed ## fuzz all parsers of outside data, half a minute each
	$(FUZZ)/python -m fuzz $(ARGS)

clean: ## remove build products, keep the environment
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)*' -prune -exec rm -rf {} +

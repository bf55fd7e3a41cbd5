# make quickstart | test | test-slow | test-parity | test-mutations | campaign | lint | bench | wheel | clean
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin
# An environment of its own: torch is large, and the package must not need it.
PARITY ?= $(VENV)/parity
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: quickstart test test-slow test-parity test-mutations campaign lint bench wheel clean

# The environment is made anew only when what is to be installed has changed.
$(VENV)/.installed: setup.cfg pyproject.toml $(wildcard constraints/*.txt)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	tag=$$($(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])') && \
	    $(BIN)/python -m pip install --quiet -c constraints/$$tag.txt -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/spendflops study --gin_file gin/studies/quickstart.gin --workdir runs/quickstart

# Files of tests are shared out over processes: one a core, at most four, since each compiles and keeps programs of its own.
# WORKERS=0 runs them in one process, for a debugger.
WORKERS ?= auto
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

$(PARITY)/.installed: setup.cfg $(wildcard constraints/*.txt)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(PARITY)/bin/python || $(PYTHON) -m venv $(PARITY)
	tag=$$($(PARITY)/bin/python -c 'import sys; print("py%d%d" % sys.version_info[:2])') && \
	    $(PARITY)/bin/python -m pip install --quiet -c constraints/$$tag.txt --extra-index-url $(TORCH_INDEX) -e '.[parity]'
	@touch $@

test-parity: $(PARITY)/.installed
	$(PARITY)/bin/python -m pytest -m parity tests/parity
	$(PARITY)/bin/python -m pytest tests/parity tests/weights/test_torch_files.py

test-mutations: $(VENV)/.installed
	$(BIN)/python tests/mutations/run.py

# Kills in the middle of whatever a run does, and of the workers of a study: a quarter of an hour on a core.
campaign: $(VENV)/.installed
	$(BIN)/python tests/campaign/campaign.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py

wheel: $(VENV)/.installed
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info

# Two commands do everything: `make run` and `make test`. Both make a virtual environment in
# .venv first; nothing outside this folder is touched.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: run test lint types prove bench fuzz man xenlab xen xen-bench clean

run: $(VENV)/made
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/examples/main_job.sh

test: $(VENV)/made lint types
	$(BIN)/python -m pytest tests plugins_contrib

lint: $(VENV)/made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/made
	$(BIN)/mypy

# Never lost, never twice: the model of the handover walked, and 300 guests moved between real
# processes that are killed. Ten minutes; fewer: make prove PROVE="--runs 50 --seed 7"
prove: $(VENV)/made
	$(BIN)/python -m tests.prove $(PROVE)

# Figures against peers, in one run; wants a quiet machine, 30 GB of disk and 15 minutes.
# A quick look: make bench BENCH="--size 256M --pairs 3"
bench: $(VENV)/made
	$(BIN)/python tests/bench/run.py $(BENCH)

# Real Xen hosts under QEMU's emulation, and the tests that run on them: as root; the first time
# they are built from Debian's packages. Another release: make xen RELEASE=trixie. From one to
# another: make xen RELEASE="bookworm trixie"
xenlab: $(VENV)/made
	PYTHONPATH=tests/xenlab $(BIN)/python -m lab build $(RELEASE:%=--release %)

xen: xenlab
	XSAVE_XENLAB_RELEASE="$(RELEASE)" $(BIN)/python tests/xenlab/run.py

# What saving costs, ours beside Xen's own helper: half an hour of processor time.
xen-bench: xenlab
	PYTHONPATH=tests/xenlab $(BIN)/python -m lab bench $(RELEASE:%=--release %)

# The command line's manual pages, from its help.
man: $(VENV)/made
	$(BIN)/python docs/make_man.py

$(VENV)/made: pyproject.toml $(wildcard plugins_contrib/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable plugins_contrib/xsave-vtpm
	$(BIN)/pip install --quiet --disable-pip-version-check --editable plugins_contrib/xsave-swapslots
	$(BIN)/pip install --quiet --disable-pip-version-check --editable plugins_contrib/xsave-drgn
	$(BIN)/pip install --quiet --disable-pip-version-check --editable plugins_contrib/xsave-volatility
	@touch $@

clean:
	rm -rf $(VENV) out

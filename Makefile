# The one door to the course. Every target sets up what it needs in .venv by itself.
#   make book     make test     make help
# TORCH=cuda takes PyTorch's default build with CUDA instead of the small CPU one.
# PYTHON=/path/to/python3.12 chooses the interpreter (3.11 or newer).

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$p; break; }; done)
TORCH ?= cpu
# PINS=oldest takes the oldest torch and Lightning that pyproject.toml admits, PINS=newest the
# newest of everything; each in an environment of its own.
PINS ?= tested
VENV := .venv$(if $(filter-out tested,$(PINS)),-$(PINS))
BIN := $(VENV)/bin
HTML := _build/html
CPU_INDEX := $(shell grep -o -- '--extra-index-url [^ ]*' environment.yml)
export MPLBACKEND ?= agg
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help book html linkcheck test data lint unit pages browser wheel test-tpu lab notebooks bench repo clean

help:  ## this list
	@echo "make book       build the book and serve it until Ctrl-C (no torch needed)"
	@echo "make test       everything: lint, unit tests, notebooks, strict book build, browser, wheel"
	@echo "make html       build the book into $(HTML)"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make notebooks  re-execute all pages, or PAGE=book/backprop/losses.py, and store the outputs"
	@echo "make lint | unit | pages | browser | wheel   one part of the tests"
	@echo "make test-tpu   the TPU path: XLA on the CPU, and the real TPU compiler (own environment)"
	@echo "make bench      the benchmarks"
	@echo "make repo URL=https://github.com/you/yours   point every link at your copy"
	@echo "make clean      remove what was built (not the environments)"

# --- environments -----------------------------------------------------------------------------

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# What reading the book needs: its builder, at the tested versions, and our package without torch.
$(VENV)/.book: requirements.txt pyproject.toml | $(VENV)/.created
	@$(BIN)/python book/_tools/pins.py $(PINS) book > $(VENV)/book.txt
	@echo "Installing the book builder ..."
	$(BIN)/python -m pip install --quiet -r $(VENV)/book.txt
	@touch $@

# Everything. PyTorch goes first, from the index that environment.yml names, unless TORCH=cuda.
$(VENV)/.all: requirements.txt pyproject.toml environment.yml | $(VENV)/.created
	@$(BIN)/python book/_tools/pins.py $(PINS) > $(VENV)/requirements.txt
	@echo "Installing the course (about 4 GB, a few minutes) ..."
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install --quiet --no-deps --retries 1 $(CPU_INDEX) \
	$$(grep '^torch==' $(VENV)/requirements.txt || echo torch)
endif
	$(BIN)/python -m pip install --quiet -r $(VENV)/requirements.txt
	@touch $@ $(VENV)/.book

# The TPU path needs the last torch that torch_xla was made for, so it has a place of its own.
TPU_PINS := torch==2.9.0 torch_xla==2.9.0 pytorch-lightning==2.6.6 jax==0.10.2 libtpu==0.0.52
.venv-tpu/.all: Makefile pyproject.toml
	@test -x .venv-tpu/bin/python || $(PYTHON) -m venv .venv-tpu
	@echo "Installing torch_xla and the TPU compiler (a few minutes) ..."
	.venv-tpu/bin/python -m pip install --quiet --retries 1 --no-deps $(CPU_INDEX) $(firstword $(TPU_PINS))
	.venv-tpu/bin/python -m pip install --quiet $(TPU_PINS) \
	$$(grep -E '^(hypothesis|psutil|pytest|pytest-timeout|pytest-xdist)==' requirements.txt) -e .
	@touch $@

# --- the book ---------------------------------------------------------------------------------

html: $(VENV)/.book  ## strict build from the stored outputs
	$(BIN)/jupyter-book build . --warningiserror --nitpick --keep-going --quiet

linkcheck: $(VENV)/.book  ## needs the open internet
	$(BIN)/jupyter-book build . --builder linkcheck

book: html
	$(BIN)/python book/_tools/serve.py $(HTML)

lab: $(VENV)/.all
	$(BIN)/jupyter lab book

notebooks: $(VENV)/.all
	$(BIN)/python book/_tools/notebooks.py execute $(PAGE)

repo: $(VENV)/.book
	@test -n "$(URL)" || { echo "make repo: say URL=https://github.com/owner/name"; exit 2; }
	$(BIN)/python book/_tools/repository.py $(URL)

# --- tests ------------------------------------------------------------------------------------

test: $(VENV)/.all
	$(MAKE) lint
	$(MAKE) html
	$(MAKE) data
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not pages" tests
	$(BIN)/python -m pytest -m pages tests
	@echo "all tests passed"

# The data sets that need no system package, so that no test waits for a download.
data: $(VENV)/.all
	$(BIN)/companion data fetch japanese-vowels
	$(BIN)/companion data fetch shakespeare

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python book/_tools/notebooks.py check

unit: $(VENV)/.all
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not pages and not browser and not wheel" tests

pages: $(VENV)/.all
	$(BIN)/python -m pytest -m pages tests

browser: $(VENV)/.all html
	$(BIN)/python -m pytest -m browser tests

test-tpu: .venv-tpu/.all
	PJRT_DEVICE=CPU .venv-tpu/bin/python -m pytest -m tpu tests

wheel: $(VENV)/.all
	$(BIN)/python -m pytest -m wheel tests

bench: $(VENV)/.all
	$(BIN)/python tests/bench/run.py $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

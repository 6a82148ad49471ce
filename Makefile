# make demo       install everything, serve the pretrained models with the app, build the ONNX files that are missing
# make test       install everything, lint, type-check, run the tests
# make test-slow  the same with the tests that need minutes
# make check      lint and type-check alone
# make format     have ruff mend what it can
# make verify     check every figure of every card: measured again, or against its log (ARGS=--samples: on the shipped images)
# make docs       build the documentation as a site in build/docs, which opens from the disk
# make notebooks  run the lessons and store them with their outputs (ARGS=3: the third alone)
# make onnx       build the ONNX and study files of all published models that are missing or out of date

PYTHON ?= python3
VENV ?= .venv
# Processes that run the tests side by side. Tests of servers and browsers often wait, so there is one more than cores.
WORKERS ?= 3
BIN := $(VENV)/bin
export GRADIO_ANALYTICS_ENABLED := False
export DO_NOT_TRACK := 1
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format docs notebooks onnx verify

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

# Each model is served as soon as its ONNX files are built. Those that are there already are served at once.
demo: $(VENV)/.demo
	@$(BIN)/python -m serve --build yes $(ARGS)

# Tests that start servers keep to one of the processes, those of the browser to another. OpenMP threads that wait for a core would only spin.
# Without bytecode each process would compile all tests again.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

test: check onnx
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: check onnx
	$(PYTEST) $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.test
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet $(ARGS)
	@echo "The documentation: build/docs/index.html"

# What to build it knows best: it goes by what the files say of themselves.
onnx: $(VENV)/.demo
	@$(BIN)/python train/export.py --missing --jobs 2

verify: onnx
	$(BIN)/python train/verify.py $(ARGS)

notebooks: $(VENV)/.test
	$(BIN)/python -m train.lessons.notebooks $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)

# The packages of the extra `docs` alone: it reads the code without importing it, so torch is not needed.
$(VENV)/.docs: pyproject.toml | $(BIN)/python
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  | $(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement /dev/stdin
	@touch $@

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing (some gigabytes the first time: minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,serve]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "Installing (some gigabytes the first time: minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,serve,dev]'
	@touch $@ $(VENV)/.demo

# make demo      install, run the five methods at 720p on this machine, write the report
# make test      style, the wheel and its types, and all tests but the slow ones
# make test-slow the tests marked slow; each has a small version in make test
# make lint      style only
# make clean     remove the environment and all caches; results and reports stay

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
EXTRAS ?= test

# Constraints pin torch: any other version may bring gigabytes of GPU libraries.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

METHODS := full moba vmoba sliding-window sta

# A stamp is newer than what it was installed from, so nothing is installed twice.
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test

# Tests start some hundred processes. Without bytecode each of them compiles attnbench anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow lint clean

help:
	@sed -n 's/^# make /make /p' Makefile

demo: $(INSTALLED)
	$(BIN)/attnbench run --res 720p --stability-calls 1 $(METHODS:%=--method %)
	$(BIN)/attnbench report

test: $(INSTALLED_TEST) lint
	$(BIN)/python scripts/check_wheel.py & wheel=$$!; trap 'kill $$wheel 2>/dev/null; exit 130' INT TERM HUP; \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder || tests=$$?; \
	wait $$wheel || { echo "scripts/check_wheel.py failed; what it said is above" >&2; exit 1; }; exit $${tests:-0}

test-slow: $(INSTALLED_TEST)
	$(BIN)/python -m pytest -m slow --numprocesses $(WORKERS) --dist worksteal --durations 20

lint: $(INSTALLED_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not installed; attnbench needs Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "attnbench needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1);" \
			"name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(INSTALLED): $(CREATED) pyproject.toml constraints.txt
	@echo "installing attnbench into $(VENV)"
	$(PIP_INSTALL) --editable .
	@touch $@

$(INSTALLED_TEST): $(CREATED) pyproject.toml constraints.txt
	@echo "installing attnbench and its test tools into $(VENV)"
	$(PIP_INSTALL) --editable '.[$(EXTRAS)]'
	@touch $(INSTALLED) $@

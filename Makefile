# make demo | up | status | down | test | test-slow | test-gpu | check | bench | bench-peers | gate-table | lock | clean.
# The first use of any installs the pinned set into .venv; while requirements.lock and pyproject.toml stay as they are, pip
# is not called again and no network is used.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
# Requirements beyond pyproject.toml's for `make lock`, as in: make lock LOCK_WITH=torch==2.13.0
LOCK_WITH ?=
# A CUDA build of torch brings its own. Beside a CPU build, Triton's interpreter tests what the CUDA kernels compute.
TRITON := triton==3.9.0
ARGS ?=
# Tests at a time. Each worker loads torch, so more need more memory: 2 GB each is enough.
JOBS ?= 2
DEALT = --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
WORKSPACE ?= widen-demo/workspace

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

.PHONY: help setup requirements package demo up status down
.PHONY: test test-slow test-gpu check bench bench-peers gate-table lock clean

help:
	@sed -n 1,3p Makefile

# Compared by content, not by date: a checkout that touches the lock and leaves it the same installs nothing.
setup:
	@cmp -s requirements.lock $(VENV)/requirements.lock || $(MAKE) --no-print-directory requirements
	@cmp -s pyproject.toml $(VENV)/pyproject.toml || $(MAKE) --no-print-directory package

requirements:
	@echo "== installing requirements.lock into $(VENV) (once; several minutes)"
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("expected Python 3.11 or newer: make PYTHON=python3.11")'
	"$(PYTHON)" -m venv --clear $(VENV)
	$(RUN) -m pip install --progress-bar off --requirement requirements.lock --constraint requirements.lock
	@$(RUN) -c 'import triton' 2>/dev/null || $(RUN) -m pip install --progress-bar off $(TRITON)
	@cp requirements.lock $(VENV)/requirements.lock

package:
	@echo "== installing widen itself into $(VENV), editable"
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(RUN) -m flows.warm
	@cp pyproject.toml $(VENV)/pyproject.toml

demo: setup
	@echo "== widen demo"
	$(VENV)/bin/widen demo $(ARGS)

# The services of a workspace: Prefect, MLflow, a worker and the watch over its sources. docs/operations.md
up: setup
	$(VENV)/bin/widen up --workspace "$(WORKSPACE)" $(ARGS)

status: setup
	$(VENV)/bin/widen status --workspace "$(WORKSPACE)" $(ARGS)

down: setup
	$(VENV)/bin/widen down --workspace "$(WORKSPACE)"

test: setup
	@echo "== tests, without the slow ones and those for a GPU"
	$(RUN) -m pytest $(DEALT) -m "not slow and not gpu" $(ARGS)

test-slow: setup
	@echo "== slow tests"
	$(RUN) -m pytest $(DEALT) -m "slow and not gpu" $(ARGS)

test-gpu: setup
	@echo "== tests for a GPU"
	$(RUN) -m pytest -m gpu $(ARGS)

check: setup
	@echo "== ruff"
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	@echo "== mypy"
	$(RUN) -m mypy
	@echo "== import contracts"
	$(VENV)/bin/lint-imports

bench: setup
	@echo "== bench"
	$(RUN) -m bench $(ARGS)

bench-peers: setup
	@echo "== mergekit, in an environment of its own (once; some minutes, network)"
	$(RUN) -m bench.peers bench-data/mergekit

gate-table: setup
	@echo "== what the gate accepts, by simulation"
	$(RUN) -m bench.gate $(ARGS)

lock:
	@echo "== resolving pyproject.toml anew (network)"
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	"$(PYTHON)" -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install --progress-bar off ".[pipeline,s3,postgres,ray,dask,dev]" $(LOCK_WITH); \
	{ sed -n '/^#/p' requirements.lock; \
	  "$$folder/venv/bin/python" -m pip freeze --all --exclude pip --exclude widen \
	    | sed 's/+cpu$$//' | grep -v -E '^(nvidia-|cuda-|triton==)'; } > "$$folder/requirements.lock"; \
	cp "$$folder/requirements.lock" requirements.lock
	@echo "== requirements.lock is new: run make check test test-slow, then commit it"

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

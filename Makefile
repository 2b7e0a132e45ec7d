# fastqwen: every target explains itself; `make` alone prints them.

PYTHON ?= python3
# What `make setup TORCH=...` chose holds until another is chosen.
TORCH ?= $(or $(shell cat .venv/torch 2>/dev/null),cpu)
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
TINY := --engine torch --model tiny
CATALOGUE := examples/catalogue

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-live test-gpu test-wheel quality style lock clean

help: ## print the targets
	@echo "fastqwen: make TARGET [VARIABLE=value]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo "variables"
	@echo "  TORCH=$(TORCH)        cpu | cuda | none: which torch \`setup\` installs (a client of servers needs none)"
	@echo "  TORCH_INDEX=     a package index with CPU builds of torch, where your own has CUDA builds alone"
	@echo "  PYTHON=$(PYTHON)   the Python (3.11 or later) that makes $(VENV)"

setup: $(VENV)/ready-$(TORCH) ## make .venv with the exact versions of constraints.txt

$(VENV)/ready-$(TORCH): constraints.txt pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py --venv $(VENV) --torch $(TORCH) --torch-index "$(TORCH_INDEX)"
	@rm -f $(VENV)/ready-*
	@echo $(TORCH) >$(VENV)/torch
	@touch $@

demo: setup ## summaries and a ranking of the example catalogue, computed here
	@mkdir -p out
	$(BIN)/fastqwen summarize $(CATALOGUE)/images -o out/summaries.jsonl $(TINY) --overwrite
	$(BIN)/fastqwen rerank $(CATALOGUE)/sessions.jsonl --items out/summaries.jsonl -o out/ranked.jsonl $(TINY) --overwrite
	@$(BIN)/python examples/show.py out/summaries.jsonl out/ranked.jsonl $(CATALOGUE)/items.jsonl

test: setup ## the test suite
	$(BIN)/python -m pytest

test-live: setup ## summarize, rerank and probs against a real vLLM on this CPU (builds it first, outside the clone)
	@vllm=$$($(BIN)/python tests/live/environment.py) && FASTQWEN_VLLM=$$vllm $(BIN)/python -m pytest -m live tests/live

test-gpu: setup ## the engine's tests on a CUDA GPU (make setup TORCH=cuda first)
	$(BIN)/python -m pytest -m gpu tests/gpu

test-wheel: setup ## build the wheel, install it with [torch] in an empty environment elsewhere, summarise with it
	$(BIN)/python tools/try_wheel.py

quality: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: setup ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## write constraints.txt anew from what is installed in .venv
	$(BIN)/python tools/lock.py

clean: ## remove what the other targets made, .venv included
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

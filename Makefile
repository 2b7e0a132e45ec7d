# fastqwen: every target explains itself; `make` alone prints them.

PYTHON ?= python3
# What `make setup TORCH=...` chose holds until another is chosen.
TORCH ?= $(or $(shell cat .venv/torch 2>/dev/null),cpu)
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
TINY := --engine torch --model tiny
CATALOGUE := examples/catalogue
# Much of the suite waits (for servers, for processes that start): two share two cores well, four gain nothing.
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo agreement test test-slow test-numbers test-soak test-ray test-oldest test-beside-vllm test-tgi-types coverage test-live test-docker test-gpu test-wheel quality style docs lock clean
.PHONY: up wait status logs down models pin stack-plan gateway observe

# The servers of this host: what `make up` is given goes to `fastqwen stack`, which checks it.
include docker/variables.mk
TIMEOUT ?= 1800
GPUS ?=
TIER ?=
STACK := $(BIN)/fastqwen stack
COMPOSE = docker compose --project-name fastqwen $(if $(wildcard docker/.env),--env-file docker/.env) --file docker/compose.yml

help: ## print the targets
	@echo "fastqwen: make TARGET [VARIABLE=value]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo "variables"
	@echo "  TORCH=$(TORCH)        cpu | cuda | none: which torch \`setup\` installs (a client of servers needs none)"
	@echo "  TORCH_INDEX=     a package index with CPU builds of torch, where your own has CUDA builds alone"
	@echo "  PYTHON=$(PYTHON)   the Python (3.11 or later) that makes $(VENV)"
	@echo "  TEST_PROCESSES=$(TEST_PROCESSES)   processes that run the test suite"
	@echo "variables of up and stack-plan"
	$(say_variables)
	@echo "  TIMEOUT=$(TIMEOUT)                 seconds that each server may take to come up"
	@echo "  TIER=$(TIER)                        1: a tier of the cache (Valkey) for jobs of this host and the gateway's users"
	@echo "  GPUS=$(GPUS)                        stack-plan: plan for GPUs of so many GiB that are not here, such as 24,24"

setup: $(VENV)/ready-$(TORCH) ## make .venv with the exact versions of constraints.txt

$(VENV)/ready-$(TORCH): constraints.txt pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py --venv $(VENV) --torch $(TORCH) --torch-index "$(TORCH_INDEX)"
	@rm -f $(VENV)/ready-*
	@echo $(TORCH) >$(VENV)/torch
	@touch $@

demo: setup ## summaries and a ranking of the example catalogue, computed here, and out/report.html of them
	@mkdir -p out
	$(BIN)/fastqwen summarize $(CATALOGUE)/images -o out/summaries.jsonl $(TINY) --overwrite
	$(BIN)/fastqwen rerank $(CATALOGUE)/sessions.jsonl --items out/summaries.jsonl -o out/ranked.jsonl $(TINY) --overwrite
	@$(BIN)/python examples/show.py out/summaries.jsonl out/ranked.jsonl $(CATALOGUE)/items.jsonl
	$(BIN)/fastqwen report out/ranked.jsonl --input $(CATALOGUE)/sessions.jsonl --items out/summaries.jsonl \
		--images $(CATALOGUE)/images -o out/report.html --overwrite
	@echo "open out/report.html in a browser"

test: setup ## the test suite; what takes seconds a test is in test-slow
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

coverage: setup ## the suite, and which lines it runs: a table, and out/coverage/index.html
	$(BIN)/python -m pytest -m "not live and not docker and not gpu and not soak and not ray" \
		--numprocesses $(TEST_PROCESSES) --dist worksteal --cov --cov-report term:skip-covered \
		--cov-report html:out/coverage

test-numbers: setup ## the tests of numbers by each instruction set of this processor, with 1, 2 and 4 threads
	@for set in default avx2 $$(grep -qs avx512f /proc/cpuinfo && echo avx512); do for threads in 1 2 4; do \
		echo "ATEN_CPU_CAPABILITY=$$set OMP_NUM_THREADS=$$threads"; \
		ATEN_CPU_CAPABILITY=$$set OMP_NUM_THREADS=$$threads $(BIN)/python -m pytest -m numbers tests/engine \
			--numprocesses $$((threads == 1 ? $(TEST_PROCESSES) : 0)) || exit 1; \
	done; done

test-slow: setup ## tests that take seconds each: killed and stalled processes, storms, browsers, the wheel
	$(BIN)/python -m pytest -m "slow and not soak" --numprocesses $(TEST_PROCESSES) --dist worksteal

test-soak: setup ## tests that hold at random moments or for many rows, with far more of both
	$(BIN)/python -m pytest -m soak --numprocesses $(TEST_PROCESSES)

test-ray: setup ## the runner on many hosts, on clusters of Ray on this one
	$(BIN)/python -m pytest -m ray tests/ray

test-oldest: setup ## the tests with the lowest versions that pyproject.toml names, torch excepted; ONLY="tests/rows": a part
	@python=$$($(BIN)/python tools/environments.py oldest) && \
		$$python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal --ignore tests/repository --ignore tests/stack $(ONLY)

test-beside-vllm: setup ## fastqwen[torch] and today's vLLM resolve in one environment; nothing is installed
	$(BIN)/python tools/beside_vllm.py

test-tgi-types: setup ## what TGI is asked and answers, held to the types of the package text-generation
	@python=$$($(BIN)/python tools/environments.py tgi) && \
		$$python -m pytest tests/servers -k 'not vllm and not sglang' --numprocesses $(TEST_PROCESSES)

test-live: setup ## summarize, rerank and probs against a real vLLM on this CPU (builds it first, outside the clone)
	@vllm=$$($(BIN)/python tests/live/environment.py) && FASTQWEN_VLLM=$$vllm $(BIN)/python -m pytest -m live tests/live

test-docker: setup ## the stack on Docker engines of the tests' own (Debian, root); ONLY="gateway or late": a part; VLLM=1: a real vLLM
	@home=$$($(BIN)/python tests/docker/environment.py) && \
		$(if $(filter-out 0,$(VLLM)),FASTQWEN_VLLM=$$($(BIN)/python tests/live/environment.py) && export FASTQWEN_VLLM &&) \
		$(BIN)/python tests/docker/halves.py "$$home" --durations 5 $(if $(ONLY),-k "$(ONLY)")

agreement: setup ## how far engines are from each other on the catalogue; SERVED=NAME=TEXT_URL,VISION_URL adds a server
	$(BIN)/python tools/agreement.py $(if $(SERVED),--served "$(SERVED)") --page docs/agreement.md

test-gpu: setup ## the engine's tests on a CUDA GPU (make setup TORCH=cuda first)
	$(BIN)/python -m pytest -m gpu tests/gpu

test-wheel: setup ## build the wheel, install it with [torch] in an empty environment elsewhere, summarise with it
	$(BIN)/python tools/try_wheel.py

quality: setup ## check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

style: setup ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## the site, into out/site/index.html; a dead link is an error
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lock: setup ## write constraints.txt anew from what is installed in .venv
	$(BIN)/python tools/lock.py

EXTRAS = $(if $(filter-out 0 off no,$(TIER)),--tier)

up: setup ## the text and the vision server of this GPU host, until both answer
	@$(STACK) up $(SERVERS) $(BESIDE) $(EXTRAS) --timeout "$(TIMEOUT)"

wait: setup ## wait until the servers answer; names the one that does not come up, and why
	@$(STACK) wait --timeout "$(TIMEOUT)"

status: setup ## each server: its container, and whether it answers
	@$(STACK) status

logs: ## what the servers print, as they do
	@$(COMPOSE) logs --follow --tail 100

down: setup ## stop the servers; weights and compile caches stay in their volumes
	@$(STACK) down

models: setup ## fetch the weights into their volume, without starting a server
	@$(STACK) plan $(SERVERS)
	@$(COMPOSE) run --rm --no-deps models

pin: setup ## the newest commits of the models and digests of the images, into docker/pins.json
	@$(STACK) plan --pin $(SERVERS)

stack-plan: setup ## what `make up` would run on which GPU; GPUS=24,24 for GPUs that are not here
	@$(STACK) plan $(SERVERS) $(if $(GPUS),--assume-gpus "$(GPUS)")

gateway: setup ## `make up`, and TLS with a key for each user on GATEWAY_PORT; keys in docker/secrets/keys
	@$(STACK) up $(SERVERS) $(BESIDE) $(EXTRAS) --timeout "$(TIMEOUT)" --gateway

observe: setup ## `make up`, and Prometheus with Grafana on http://127.0.0.1:3000
	@$(STACK) up $(SERVERS) $(BESIDE) $(EXTRAS) --timeout "$(TIMEOUT)" --observe

clean: ## remove what the other targets made, .venv included
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

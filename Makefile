# Every command of the project. `make` lists them.
# What is built or downloaded lands in $(CACHE), outside the checkout, addressed by version.

CACHE ?= $(or $(LLMTRAIN_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llmtrain)
UV_VERSION := 0.13.9
UV := $(CACHE)/tools/uv-$(UV_VERSION)/bin/uv
PYTHON ?= python3
RUN := .venv/bin
STAMP := .venv/.installed
FIND_HELM := 'from testbed.binaries import ensure_binary; print(ensure_binary("helm"))'
# More than cores: many tests wait for servers.
TEST_PROCESSES ?= 3
FUZZ_SECONDS ?= 60
IMPORTED := crds operator trainer_image tests

# Compiling what is imported costs more than importing it: half of every start of a rank.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(UV):
	$(PYTHON) -m venv $(dir $(@D))
	$(@D)/pip install --quiet uv==$(UV_VERSION)

$(STAMP): $(UV) pyproject.toml uv.lock
	$(UV) sync --quiet --frozen --all-extras --compile-bytecode
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Install everything into .venv, from the lock file

.PHONY: check
check: $(STAMP) ## Style, types, import layers, generated files
	$(RUN)/ruff check $(IMPORTED)
	$(RUN)/ruff format --check $(IMPORTED)
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python -m llmtrain_api --check

.PHONY: format
format: $(STAMP) ## Format the code and mend what ruff can
	$(RUN)/ruff check --fix $(IMPORTED)
	$(RUN)/ruff format $(IMPORTED)

.PHONY: generate
generate: $(STAMP) ## Write the CRD and the plain install manifest anew
	$(RUN)/python -m llmtrain_api
	$$(PYTHONPATH=tests/cluster $(RUN)/python -c $(FIND_HELM)) template llmtrain helm/llmtrain \
		--namespace llmtrain-system > manifests/install/llmtrain.yaml

.PHONY: test
test: $(STAMP) build-testbed ## Every test that needs no root
	$(RUN)/pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --durations=30 \
		-m "not nodes and not patient" tests

.PHONY: e2e
e2e: $(STAMP) build-testbed build-nodes ## The tests that need real nodes, and so root
	$(RUN)/pytest -m "nodes and not patient" tests

.PHONY: fuzz
fuzz: $(STAMP) ## Fuzz the readers of sources for a minute, or FUZZ_SECONDS
	$(UV) sync --quiet --frozen --all-extras --group fuzz
	PYTHONPATH=tests/cluster $(RUN)/python tests/fuzz/fuzz_readers.py --seconds $(FUZZ_SECONDS)

.PHONY: bench-faults
bench-faults: $(STAMP) build-testbed ## Make every fault, tear writes, kill at random; goes on where it was
	PYTHONPATH=tests/cluster $(RUN)/python tests/bench/bench_faults.py

.PHONY: build-testbed
build-testbed: $(STAMP) ## Build the servers that tests run (kube-apiserver, MinIO, …) into the cache
	PYTHONPATH=tests/cluster $(RUN)/python -m testbed build

.PHONY: build-nodes
build-nodes: $(STAMP) ## Install Debian's containerd and its like, and build our images
	PYTHONPATH=tests/cluster $(RUN)/python -m testbed build-nodes

.PHONY: demo
demo: $(STAMP) ## Train a small model on this machine and look at what it writes
	$(RUN)/llmtrain demo

.PHONY: cluster-up
cluster-up: $(STAMP) ## Start a real two-node cluster on this machine
	PYTHONPATH=tests/cluster $(RUN)/python -m testbed up

.PHONY: cluster-down
cluster-down: $(STAMP) ## Stop it and leave nothing behind
	PYTHONPATH=tests/cluster $(RUN)/python -m testbed down

# `make demo` and `make test` install what they need into .venv, as uv.lock says, and run.
# Redis, browsers and libgomp come from apt, with sudo where that is needed, unless they are there
# or SKIP_SYSTEM=1 is given. Nothing waits for an answer.

VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# The tests' workers: most tests wait. JOBS=0 runs them in one process, as a debugger wants it.
JOBS   ?= 4
WORKERS = -n $(JOBS) --no-loadscope-reorder
PYTEST  = $(BIN)/python -m pytest $(WORKERS)
# The Python to install for: make PYTHON=python3.13 …; else that of .venv, else one that is there.
PYTHON ?= $(shell for p in $(BIN)/python python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
INSTALL = @$(NEED_PYTHON); $(PYTHON) scripts/install.py

# The bot on the page, and the tests, are the only ones to speak: nothing is fetched from a hub.
export HF_HUB_OFFLINE := 1

.PHONY: help demo test test-fast test-scale test-vllm test-pythons test-live lint types bench faults soak docs screenshots dist lock clean
.DEFAULT_GOAL := help

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
	@echo "What is missing of Redis, Chromium, Firefox and libgomp comes from apt (with sudo); SKIP_SYSTEM=1 leaves it out."

demo: ## Speak with the bot in the browser (ARGS="--port 7860")
	$(INSTALL) demo
	@$(BIN)/python -m mistral_service.demo $(ARGS)

test: ## Run every test (ARGS="-k words")
	$(INSTALL) test
	$(PYTEST) $(ARGS)

test-fast: ## Run the tests that need no browser
	$(INSTALL) test-fast
	$(PYTEST) -m "not browser" $(ARGS)

test-scale: ## Hold 200 calls on two nodes of a cluster, and break what can break
	$(INSTALL) test-fast
	$(BIN)/python -m pytest tests/scale/cluster --scale=long $(ARGS)

test-vllm: ## Hold the service against a real vLLM on the CPU (3 GB to download)
	$(INSTALL) test-fast
	$(INSTALL) vllm
	$(BIN)/python -m pytest tests/interop/vllm --vllm $(ARGS)

test-pythons: ## Run the tests with the other Pythons from 3.11 that are installed
	$(INSTALL) test
	@$(BIN)/python scripts/pythons.py $(WORKERS) $(ARGS)

test-live: ## Ask Mistral itself, for some cents: conform, and the tests that are marked live
	@[ -n "$$MISTRAL_API_KEY" ] || { echo "There is no key: set MISTRAL_API_KEY, and make test-live asks Mistral itself." >&2; exit 1; }
	$(INSTALL) test-fast
	@mkdir -p artifacts; status=0; \
	  $(BIN)/mistral-service conform --yes --report artifacts/conform.json || status=$$?; \
	  $(BIN)/python -m pytest -m live $(ARGS) || status=$$?; exit $$status

lint: ## Check style and format
	$(INSTALL) tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: ## Check types, strictly
	$(INSTALL) tools
	$(BIN)/pyright

bench: ## Compare with Pipecat's own service
	$(INSTALL) tools
	@$(BIN)/python benchmarks/speed.py
	@$(BIN)/python benchmarks/pipeline.py
	@$(BIN)/python benchmarks/first_word.py
	@$(BIN)/python benchmarks/behaviour.py
	@$(BIN)/python benchmarks/messages.py
	@$(BIN)/python benchmarks/images.py

faults: ## Let every fault happen, and write docs/faults.md
	$(INSTALL) tools
	@PYTHONPATH=tests/support $(BIN)/python tests/turn/test_fault_matrix.py --write

docs: ## Build the documentation site into site/; a broken link is an error
	$(INSTALL) tools
	@$(BIN)/python docs/reference.py
	@$(BIN)/python docs/modules.py
	@$(BIN)/python docs/servers.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

dist: ## Build the wheel and the source distribution into dist/
	$(INSTALL) tools
	$(BIN)/python -m build --no-isolation

screenshots: ## Make the images in docs/images, and the transcript of the demo
	$(INSTALL) test
	@$(BIN)/python docs/screenshots.py
	@$(BIN)/python docs/charts.py
	@$(BIN)/python docs/demo_run.py

soak: ## Hold 500 conversations of 20 turns with a model that often fails
	$(INSTALL) tools
	@$(BIN)/python benchmarks/soak.py $(ARGS)

lock: ## Pin the newest dependencies in uv.lock
	$(INSTALL) tools
	$(BIN)/uv lock --upgrade
	$(BIN)/uv lock --upgrade --project tests/environments/clients

clean: ## Remove what the targets made
	rm -rf $(VENV) .venvs .uv tests/gateway/node_modules tests/demo/browser/node_modules artifacts dist site .pytest_cache .ruff_cache .hypothesis

COMMA := ,
define NEED_PYTHON
[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo "Python 3.11 or later is needed$(if $(PYTHON),$(COMMA) but $(PYTHON) is older or does not run): install it, or name one with make PYTHON=python3.11 …" >&2; exit 1; }
endef

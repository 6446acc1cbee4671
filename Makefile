# Every target works on a fresh machine by itself: it makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check format generate lock bench clean help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(STAMP) ## make the virtual environment and install everything into it

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Framemesh needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	@$(PYTHON) -m venv $(VENV) || { echo "No venv module: install it (Debian: apt-get install python3-venv) and run make again."; exit 1; }
	@echo "Installing Framemesh into $(VENV) (a minute or so the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP) ## run a real video through the whole mesh and list its events
	@$(BIN)/framemesh demo --keep demo-output

test: $(STAMP) ## every test, against real servers
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP) ## format, lint, types, layers, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m framemesh.schemas --check proto
	$(BIN)/python -m services.gateway.openapi --check proto

format: $(STAMP) ## put the code into the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(STAMP) ## write proto/ from the message models
	$(BIN)/python -m framemesh.schemas proto
	$(BIN)/python -m services.gateway.openapi proto

lock: ## pin every dependency again in requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate -q -o requirements.lock

bench: $(STAMP) ## the mesh and each model's worker against a bare loop, jobs against Celery, a hundred videos at once
	$(BIN)/python -m benchmarks.live_path
	$(BIN)/python -m benchmarks.models
	$(BIN)/python -m benchmarks.chains
	$(BIN)/python -m benchmarks.flood
	$(BIN)/python -m benchmarks.images
	$(BIN)/python -m benchmarks.rush
	$(BIN)/python -m benchmarks.search

clean: ## remove what the targets made
	rm -rf $(VENV) demo-output .pytest_cache .import_linter_cache .mypy_cache .ruff_cache .hypothesis

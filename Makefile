# Every task of the project. `make help` lists them; nothing but make, bash and Python 3.11 or later is needed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
STAMP := $(VENV)/.installed

# `make <task> PYTHON=/some/venv/bin/python` uses that environment as it is and installs nothing.
ifeq ($(origin PYTHON),command line)
READY :=
else
PYTHON := $(VENV)/bin/python
READY := $(STAMP)
endif
BIN := $(patsubst %/,%,$(dir $(PYTHON)))

# The Python that creates the environment.
PYTHON3 ?= python3
PIP := $(PYTHON) -m pip --disable-pip-version-check --no-input -qq

.PHONY: help setup run demo metrics-demo test test-loaded security faults bench bench-peers bench-search gen lint check-gen format typecheck docs baseline lock clean

help:  ## list the tasks
	@grep -hE '^[a-z][a-z-]*:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /\1\t/' \
		| while IFS=$$'\t' read -r task text; do printf '  make %-12s %s\n' "$$task" "$$text"; done

## Environment

setup: $(READY)  ## create .venv with the locked versions of everything

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON3) >/dev/null \
		|| { echo 'error: $(PYTHON3) was not found; install Python 3.11 or later.' >&2; exit 1; }
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or later is needed, $(PYTHON3) is $$($(PYTHON3) -V);" \
			"try make PYTHON3=python3.11." >&2; exit 1; }
	@$(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo 'error: $(PYTHON3) cannot make environments; on Debian: apt-get install python3-venv.' >&2; exit 1; }
	@echo '[1/3] creating $(VENV)'
	@$(PYTHON3) -m venv $(VENV)
	@echo '[2/3] installing the locked packages (about a minute the first time)'
	@$(PIP) install --no-deps --require-hashes -r requirements.lock
	@echo '[3/3] installing aiworkspace in place'
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

## The product

run: $(READY)  ## start the server, with its own databases unless DATABASE_URL and MONGO_URI are set
	@exec $(PYTHON) -m aiworkspace_server serve --migrate $(ARGS)

demo: $(READY)  ## a tour through the running product
	@exec $(PYTHON) tools/demo.py $(ARGS)

metrics-demo: $(READY)  ## the dashboard in the terminal, of a server under load; ARGS='--seconds 60'
	@exec $(PYTHON) tools/metrics_demo.py $(ARGS)

# Each of the JOBS has its own databases. Tests mostly wait, so that more jobs than cores are faster.
JOBS ?= 3
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder
test: $(READY)  ## run the tests; ARGS='-k name' is passed on to pytest
	@$(PYTHON) -m pytest $(PARALLEL) $(ARGS)

test-loaded: $(READY)  ## run the tests while every core is kept busy by another process
	@$(PYTHON) tools/busy.py $(PYTHON) -m pytest $(PARALLEL) $(ARGS)

security: $(READY)  ## run the security checks; ARGS='--strict' also fails if pip-audit reaches no service
	@$(PYTHON) -m tests.security $(ARGS)

faults: $(READY)  ## break the server and its stores on purpose, and count what is lost; ARGS='--only kill --seed 2'
	@GRPC_VERBOSITY=ERROR $(PYTHON) -m tests.faults $(ARGS)

bench: $(READY)  ## run the measurements
	@$(PYTHON) -m tests.bench $(ARGS)

bench-search: $(READY)  ## measure search; ARGS='--collection DIR' names the Cranfield collection
	@$(PYTHON) -m tests.bench.search $(ARGS)

# LiteLLM's packages do not agree with ours, so they have an environment of their own.
PEERS := .venv-peers
bench-peers: $(READY) $(PEERS)/.installed  ## measure the product beside LiteLLM's proxy, in the same rounds
	@$(PYTHON) -m tests.bench --only peers $(ARGS)

$(PEERS)/.installed: tests/bench/peers.txt
	@echo 'installing LiteLLM into $(PEERS) (two minutes the first time)'
	@$(PYTHON3) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --no-input -qq install -r $<
	@touch $@

## Code

# Written beside gen/ and swapped in at the end, so that a broken .proto leaves the last good code in place.
# The plugin options stay at their defaults: servicers and stubs typed for grpc.aio and for grpc alike.
gen: $(READY)  ## write gen/ and the client's generated part from protos/
	@rm -rf .gen && mkdir -p .gen/aiworkspace/v1
	@shopt -s nullglob; $(PYTHON) -m grpc_tools.protoc -I protos -I protos/vendor \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=.gen --grpc_python_out=.gen --mypy_out=quiet:.gen --mypy_grpc_out=quiet:.gen \
		protos/aiworkspace/v1/*.proto
	@$(PYTHON) -m grpc_tools.protoc -I protos/vendor --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
		--python_out=.gen --mypy_out=quiet:.gen protos/vendor/buf/validate/validate.proto
	@for file in $$(grep -L Servicer .gen/aiworkspace/v1/*_pb2_grpc.py); do rm "$$file" "$${file}i"; done
	@touch .gen/aiworkspace/__init__.py .gen/aiworkspace/v1/__init__.py .gen/aiworkspace/py.typed
	@rm -rf gen && mv .gen gen
	@PYTHONPATH=gen:client $(PYTHON) tools/gen_client.py

lint: $(READY)  ## run every check that is not a test
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(PYTHON) -m mypy
	@$(BIN)/lint-imports --no-logo
	@$(PYTHON) -m bandit -q -c pyproject.toml -r server client tools
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against protos/baseline.binpb
	@PYTHONPATH=gen:client $(PYTHON) -m tools.lint_migrations
	@$(MAKE) check-gen PYTHON=$(PYTHON)
	@if grep -nE '://|^-' requirements.lock; then echo 'error: requirements.lock names an address.' >&2; exit 1; fi

# The generators run in a copy, so that a check never changes the working tree.
check-gen: $(READY)  ## fail if generated code differs from what protos/ produces
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT \
		&& cp -r Makefile pyproject.toml protos tools client "$$copy" \
		&& $(MAKE) -C "$$copy" gen docs PYTHON=$(abspath $(PYTHON)) \
		&& for tree in gen client docs/access.md docs/reference.md; do \
			diff -qr -x __pycache__ "$$tree" "$$copy/$$tree" >&2 \
			|| { echo 'error: generated files are stale; run make gen docs.' >&2; exit 1; }; done

format: $(READY)  ## format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

typecheck: $(READY)  ## run mypy only
	@$(PYTHON) -m mypy $(ARGS)

docs: $(READY)  ## write docs/reference.md and docs/access.md from the contract
	@PYTHONPATH=gen:client $(PYTHON) tools/gen_docs.py
	@PYTHONPATH=gen:client $(PYTHON) tools/gen_access.py

# `make lint` refuses changes of protos/ that break clients of this contract. Run it for each release.
baseline: $(READY)  ## write protos/baseline.binpb, the contract that later changes must not break
	@$(BIN)/buf build -o protos/baseline.binpb --exclude-source-info --path protos/aiworkspace

# Resolved for every platform and Python that pyproject.toml allows. Versions in the current lock stay unless
# ARGS='--upgrade' or ARGS='--upgrade-package name' says otherwise. The lock names files by hash and no addresses: the
# installer's configuration decides where they come from.
lock: $(READY)  ## write requirements.lock from pyproject.toml; ARGS='--upgrade' for newer versions
	@$(PYTHON) -m uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --group dev --group weights \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --system-certs --quiet \
		--output-file requirements.lock $(ARGS)
	@$(PYTHON) -m uv pip compile pyproject.toml --universal --python-version 3.11 --extra server --extra otel --group weights \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --system-certs --quiet \
		--constraint requirements.lock --output-file deploy/requirements.lock

clean:  ## remove the environment, caches and build output; never .data
	@rm -rf $(VENV) $(PEERS) .gen build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

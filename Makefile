# The two commands for a newcomer: `make demo` and `make test`. Everything happens in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# What the kind of server can make a difference to.
WAREHOUSE := tests/integration/storage tests/faults/test_database.py tests/campaign \
  $(patsubst %,tests/integration/beddit/test_%.py,blobs incremental interruption summaries verify) \
  $(patsubst %,tests/integration/bace/test_%.py,data data_growing data_interrupted verify)

.DEFAULT_GOAL := help
.PHONY: help demo test test-timescaledb campaign mutations bench image-test lint types contracts format lock build check clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "nightshift needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "Python's venv module is missing. On Debian: apt-get install python3-venv"; exit 2; }
	@echo "Building $(VENV) (once) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Once, where the environment keeps Python from writing down what it compiles at each start.
	@$(BIN)/python -m compileall -q sync
	@touch $@

demo: $(READY)  ## Emulated clouds, embedded PostgreSQL, the real pipeline; nothing to configure
	@$(BIN)/nightshift demo

test: $(READY)  ## All tests, against a real PostgreSQL
	@$(BIN)/pytest -n 3 --dist worksteal

# The first line makes the server's Debian, which takes longer than a test may.
test-timescaledb: $(READY)  ## The tests of the warehouse on TimescaleDB (takes root and mmdebstrap, or Docker)
	@tests/integration/timescaledb.sh </dev/null >/dev/null 2>&1 || true
	@$(BIN)/pytest -n 3 --dist worksteal --server timescaledb $(WAREHOUSE)

mutations: $(READY)  ## Breaks each promise on purpose and expects the tests to catch it
	@$(BIN)/python tests/mutations/run.py

campaign: $(READY)  ## Kill it hundreds of times and compare: KILLS=500 SEED=7 SEASON=3
	@$(BIN)/python -m tests.campaign $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(SEASON),--season $(SEASON))

bench: $(VENV)-bench/ready  ## How fast it is, beside dlt, a script and COPY alone: FIGURES="bace memory" SIZE=quick
	@$(VENV)-bench/bin/python -m bench $(FIGURES) $(if $(filter quick,$(SIZE)),--quick) $(if $(JSON),--json $(JSON))

$(VENV)-bench/ready: pyproject.toml requirements.lock
	@echo "Building $(VENV)-bench (once) ..."
	@$(PYTHON) -m venv --clear $(VENV)-bench && echo '*' > $(VENV)-bench/.gitignore
	@$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[bench]'
	@touch $@

image-test:  ## The container image, built and tried without Docker (takes root and buildah)
	@tests/integration/deploy/image.sh

lint: $(READY)  ## Style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	@$(BIN)/mypy

contracts: $(READY)  ## Which room may import which
	@$(BIN)/lint-imports

format: $(READY)  ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint types contracts test  ## All that CI runs

lock:  ## Pin every dependency anew in requirements.lock
	@$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	@$(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --extra dev --upgrade \
	  --output-file requirements.lock pyproject.toml 
	@rm -rf $(VENV)-lock

build: $(READY)  ## Wheel and source archive in dist/
	@$(BIN)/python -m build --quiet

clean:  ## Remove what the targets above made
	@rm -rf $(VENV) $(VENV)-bench dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The one door: `make demo` and `make test` set up everything they need. Needs python3 (3.11 to 3.13) and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup lint types test test-slow test-nojit proto bench demo clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make the virtual environment and install everything into it

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info, f"Python 3.11 or newer is needed, found {sys.version.split()[0]}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable '.[train,tune,native,traces]'
	touch $(READY)

lint: setup  ## style of the Python, of the wire and of deploy/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/yamllint --strict deploy .yamllint.yaml

types: setup  ## mypy, strict
	$(BIN)/mypy

test: setup lint types  ## lint, types and the whole suite
	$(BIN)/python -m pytest -m 'not slow'
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -q -m 'not slow' $(KERNEL_TESTS)

# The kernels once more as plain Python, where an index out of bounds is an error instead of a wrong number.
KERNEL_TESTS := $(addprefix tests/test_,byte_products.py cooccurrence.py eigenbasis.py giant_rows.py ids.py item_regression.py pruned_scan.py quantized_scan.py rotation.py row_solver.py scoring.py session_scan.py sparse_rows.py sparse_scan.py table_lookups.py vector_table.py wire_columns.py)

test-slow: setup  ## the checks that take long
	$(BIN)/python -m pytest -m slow

proto: setup  ## regenerate the Python of the wire
	$(BIN)/python proto/generate.py

bench: setup  ## every benchmark, small
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	for each in index_build ingest open_release defaults quality recall training warm_start new_items part_costs carts sessions blends load latency server_costs faults; do $(BIN)/python -m benchmarks.$$each --quick || exit 1; done

demo: setup  ## train on the bundled shop, serve, ask
	$(BIN)/nearcart demo

clean:  ## remove what the targets made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

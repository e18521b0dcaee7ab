# The two commands of the README are `make demo` and `make test`; both set up what they need.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PEERS := $(VENV)/.peers-set-up
export PYTHONUNBUFFERED = 1
# Compiled bytecode saves five seconds at each start of a process that imports transformers.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo critique-loop test test-learning test-parity test-crash test-nemesis check format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed; set PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	UV_FIND_LINKS="$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)" \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt \
		--editable '.[server,s3,train,local,dev]'
	@touch $(STAMP)

$(PEERS): $(STAMP) pyproject.toml constraints.txt
	UV_FIND_LINKS="$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)" \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt \
		--editable '.[server,s3,train,local,dev,parity]'
	@touch $(PEERS)

demo: setup ## the whole path: rubric in, better model out
	$(BIN)/grape demo $(DEMO_ARGS)

critique-loop: setup ## from critiques to a better model: GRAPE, revisions, DPO and SFT on what was accepted
	$(BIN)/python -m examples.critique_loop $(DEMO_ARGS)

test: setup ## real Postgres, real Valkey, real processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

test-learning: setup ## every algorithm moves its own objective, on three seeds, by a stated margin
	$(BIN)/python -m pytest tests/learning -m learning $(TEST_ARGS)

test-parity: $(PEERS) ## installs the peers (TRL); loss and gradient equal theirs on random batches
	$(BIN)/python -m pytest tests/parity -m parity $(TEST_ARGS)

test-crash: setup ## processes, servers and disks are really killed under a running stack
	$(BIN)/python -m pytest -m heavy --numprocesses 2 --dist loadfile $(TEST_ARGS)

test-nemesis: setup ## seeded faults against a running stack, invariants over everything that was recorded
	$(BIN)/python -m tests.nemesis --seeds 2 --seconds 40 $(NEMESIS_ARGS)

check: setup ## lint, types, import contracts, the house, the compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/architecture
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

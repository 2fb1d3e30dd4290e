# Every target makes the environment it needs. PYTHON chooses the interpreter (3.10 or later).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread per process: two runs of one thread beat one run of two.
export OMP_NUM_THREADS ?= 1

.PHONY: install test test-fast lint demo results clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

install: $(BIN)/.installed

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-fast: install
	$(BIN)/python -m pytest -m "not slow"

demo: install
	$(BIN)/python examples/demo/run.py

# Reports of the committed results, and the tables that the README holds.
results: install
	$(BIN)/benchmarl-ssd report examples/offline_mpe/results/*.jsonl examples/offline_mpe/results/rebuilt/*.jsonl --same-recipe \
		--out examples/offline_mpe/report --algorithms \
		ssd,bc,matd3bc,maiql,macql,cfcql,maicq,omar,omiga,madiff > /dev/null
	PATH="$(abspath $(BIN)):$$PATH" sh examples/comparison/run.sh report > /dev/null
	$(BIN)/python examples/offline_mpe/run.py --table
	$(BIN)/python examples/coordination/run.py --table
	$(BIN)/python examples/coordination/conventions.py --table

clean:
	rm -rf $(VENV)

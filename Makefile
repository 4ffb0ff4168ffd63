# The first two are all that a newcomer needs: `make demo`, `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= sample.vitdex
BENCH ?= bench
FLOORS ?= .venv-floors
FLOORS_PYTHON ?= python3.11

.PHONY: demo test soak lint docs floors bench clean

demo: $(VENV)/.installed
	$(BIN)/vitdex index $(DEMO) --sample --overwrite
	@echo "Look at it in the browser: $(BIN)/vitdex atlas serve $(DEMO) --open"

test: $(VENV)/.developing
	$(BIN)/python -m pytest

soak: $(VENV)/.developing
	$(BIN)/python -m pytest -m soak

lint: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The suite with the lowest version of everything that pyproject allows.
floors: $(FLOORS)/.installed
	$(FLOORS)/bin/python -m pytest

docs: $(VENV)/.developing
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The pages are in site/: open site/index.html"

bench: $(VENV)/.developing
	$(BIN)/python benchmarks/lanes.py --record $(BENCH)
	$(BIN)/python benchmarks/throughput.py --count 1120 --counted 16 --record $(BENCH)
	$(BIN)/python benchmarks/memory.py --counted 16 --record $(BENCH)
	$(BIN)/python benchmarks/announced.py --record $(BENCH)
	$(BIN)/python benchmarks/writer.py --record $(BENCH)
	$(BIN)/python benchmarks/precision.py --record $(BENCH)
	$(BIN)/python benchmarks/scale.py --record $(BENCH)
	$(BIN)/python benchmarks/workers.py --record $(BENCH)
	$(BIN)/python benchmarks/uploads.py --record $(BENCH)
	$(BIN)/python benchmarks/queries.py --record $(BENCH)
	$(BIN)/python benchmarks/effects.py cost --record $(BENCH)
	$(BIN)/python benchmarks/atlas.py --record $(BENCH)
	$(BIN)/python benchmarks/report.py $(BENCH)

clean:
	rm -rf $(VENV) $(FLOORS) $(DEMO)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[atlas]"
	touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

$(FLOORS)/.installed: pyproject.toml .ci/floors.py
	$(FLOORS_PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python .ci/floors.py > $(FLOORS)/constraints.txt
	$(FLOORS)/bin/python -m pip install --quiet --upgrade pip
	$(FLOORS)/bin/python -m pip install --quiet --constraint $(FLOORS)/constraints.txt --editable ".[test]"
	touch $@

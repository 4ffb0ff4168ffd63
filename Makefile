# The first two are all that a newcomer needs: `make demo`, `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= sample.vitdex
BENCH ?= bench

.PHONY: demo test soak lint docs bench clean

demo: $(VENV)/.installed
	$(BIN)/vitdex index $(DEMO) --sample --overwrite

test: $(VENV)/.developing
	$(BIN)/python -m pytest

soak: $(VENV)/.developing
	$(BIN)/python -m pytest -m soak

lint: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.developing
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The pages are in site/: open site/index.html"

bench: $(VENV)/.developing
	$(BIN)/python benchmarks/lanes.py --record $(BENCH)
	$(BIN)/python benchmarks/throughput.py --count 1120 --counted 16 --record $(BENCH)
	$(BIN)/python benchmarks/memory.py --counted 16 --record $(BENCH)
	$(BIN)/python benchmarks/writer.py --record $(BENCH)
	$(BIN)/python benchmarks/precision.py --record $(BENCH)
	$(BIN)/python benchmarks/scale.py --record $(BENCH)
	$(BIN)/python benchmarks/queries.py $(BENCH)
	$(BIN)/python benchmarks/report.py $(BENCH)

clean:
	rm -rf $(VENV) $(DEMO)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

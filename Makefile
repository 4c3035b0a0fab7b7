# The two commands of the README are `make demo` and `make test`. A virtual environment made once is reused.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test check clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "mattesmith needs Python 3.11 or newer, found %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,check]"
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python cli.py generate --n 48 --shard-size 24 --out $(DEMO)
	$(BIN)/python cli.py verify $(DEMO)
	$(BIN)/python cli.py stats $(DEMO) --html $(DEMO)-report.html --sheet $(DEMO)-sheet.png

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/check && mkdir -p build/check/mattesmith
	cd build/check/mattesmith && ln -s ../../../gen ../../../enhance ../../../filters ../../../shards ../../../finetune ../../../studio ../../../cli.py . && touch __init__.py
	MYPYPATH=build/check $(BIN)/mypy -p mattesmith

clean:
	rm -rf build $(DEMO) $(DEMO)-report.html $(DEMO)-sheet.png

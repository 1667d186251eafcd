# Every target makes its own virtual environment first, if there is none: nothing to install by hand.
# Another interpreter (3.11 to 3.13): make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-cluster test-browser lint format bench clean

demo: $(READY)
	$(BIN)/reweight demo

# Two to four tests at a time; `pytest tests/test_x.py` runs one file in one process.
test: $(READY)
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

# Minutes to an hour: kill sweeps and reduced-scale training runs.
test-slow: $(READY)
	$(BIN)/pytest -m slow

# Ranks started by torchrun, accelerate, two network namespaces, Slurm: docs/cluster.md. Parts of it need root.
test-cluster: $(READY)
	$(BIN)/pytest -m cluster -rs

# The report's page in an installed Chromium (Debian: apt-get install chromium).
test-browser: $(READY)
	$(BIN)/pytest -m browser -rs

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/reweight bench train

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"reweight needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}; name another with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@# torch first and exactly: with a CPU build at hand, nothing later may replace it by a larger one.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist demo

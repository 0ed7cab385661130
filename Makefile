# Everything a fresh machine needs is made by the two commands of the README: `make try` and `make test`.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
TRAIT ?= optimistic
# Bytecode is written for what is imported, then, and not for everything that is installed.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: try test lint fix collect pytest docs

try: $(VENV)/.installed
	$(BIN)/personavec generate "Tell me about your day." \
		--steer optimistic=2 --read optimistic --compare --max-new-tokens 48
	$(BIN)/personavec extract $(TRAIT) --texts library --out runs/$(TRAIT)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Once through all imports before the processes of pytest do: each of them would write the bytecode for itself.
test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory --jobs 2 lint collect
	@$(MAKE) --no-print-directory pytest

collect: $(VENV)/.installed-dev
	$(BIN)/pytest --collect-only -qqq

# One process more than there are cores: some tests wait for processes that they start.
PROCESSES := $(BIN)/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))'
pytest: $(VENV)/.installed-dev
	$(BIN)/pytest --numprocesses $$($(PROCESSES)) --dist loadfile --no-loadscope-reorder

# The site, in build/site. In an environment of its own: what builds it reads the sources and imports none of them.
DOCS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])
docs: $(VENV)-docs/.installed
	$(VENV)-docs/bin/python docs/site.py

$(VENV)-docs/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --no-compile $$($(VENV)-docs/bin/python -c '$(DOCS)')
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("personavec needs Python 3.11 or newer; name one: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python install.py
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python install.py dev
	touch $(VENV)/.installed $@

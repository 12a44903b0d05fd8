# make install | test | test-slow | test-all | lint | format | types | demo | results DATA=DIR [TASKS=glue] | nir-tools | clean
ifndef PYTHON
# `command -v` is not enough: a version manager may offer a name that does not run.
PYTHON := $(shell for python in python3.11 python3; do $$python -c '' 2>/dev/null && echo $$python && break; done)
endif

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROOMS := train export lava_runtime energy
DEMO := model.ckpt
# A file's tests stay together: they share what its fixtures made.
TESTS := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile
# Their metadata ask for Python < 3.11, numpy < 2 or torchvision; they work without (lava_runtime/compatibility.py).
NO_DEPS := lava-nc lava-dl neurobench norse snntorch

.PHONY: install test test-slow test-all lint format types demo demo-short results nir-tools clean

install: $(STAMP)

# Not compiled to bytecode: of 17,000 files a run imports 3,500, which Python compiles then, once.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[augment,demo,dev]'
	$(BIN)/python -m pip install --no-compile -c constraints.txt --no-deps --ignore-requires-python $(NO_DEPS)
	touch $@

test: install
	$(TESTS) -m 'not slow'

test-slow: install
	$(TESTS) -m slow

test-all: install
	$(TESTS)

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

# The main job on its embedded default, then everything the result can be asked.
demo: install
	$(BIN)/neurotool train --force --preset fast $(DEMO_OPTIONS) -o $(DEMO)
	$(BIN)/neurotool evaluate $(DEMO) --time-steps 1,2,4,8,16
	$(BIN)/neurotool predict $(DEMO) "a moving and very funny film" "a dull and lifeless mess with no laughs"
	$(BIN)/neurotool export $(DEMO) --target nir -o $(DEMO:.ckpt=.nir) --force
	$(BIN)/neurotool validate $(DEMO) $(DEMO:.ckpt=.nir)
	$(BIN)/neurotool export $(DEMO) --target lava -o $(DEMO:.ckpt=.lava) --force
	$(BIN)/neurotool run $(DEMO:.ckpt=.lava) "a moving and very funny film" "a dull and lifeless mess with no laughs"
	$(BIN)/neurotool validate $(DEMO) $(DEMO:.ckpt=.lava)
	$(BIN)/neurotool energy report $(DEMO)
	$(BIN)/neurotool energy report $(DEMO) -o $(DEMO:.ckpt=.html) --force

# The same commands on a fraction of the training, for .ci/run.
demo-short:
	mkdir -p build
	$(MAKE) demo DEMO=build/demo.ckpt DEMO_OPTIONS="--layers 2 --teacher-epochs 0.25 --epochs 0.25 --run-folder build/run"

# Trains and evaluates every student on every data set in the folder DATA that benchmarks/table.json names (hours; stop
# it and go on as you like), then puts the table into docs/results.md. With TASKS=glue those of benchmarks/glue.json; the
# table goes to results/glue.tex.
results: install
	@test -d "$(DATA)" || { echo "give the folder of the data sets: make results DATA=DIR"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/table.py $(DATA) results$(TASKS:%=/%) \
		--config benchmarks/$(or $(TASKS),table).json $(if $(TASKS),--latex results/$(TASKS).tex,--write docs/results.md)

# Other tools, in an environment of their own, since their pins clash with ours and with each other's; what they export and
# send, and what they make of our files; and the tables of docs/nir.md.
nir-tools: install
	test -x build/nirtools/bin/python || $(PYTHON) -m venv build/nirtools
	build/nirtools/bin/python -m pip install -q --no-deps -r benchmarks/nir_tools.txt
	OMP_NUM_THREADS=1 build/nirtools/bin/python benchmarks/nir_tools.py build/nir-networks
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/nir_for.py build/nir-for
	OMP_NUM_THREADS=1 build/nirtools/bin/python benchmarks/nir_opened.py build/nir-for
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/nir_table.py build/nir-networks build/nir-for --write docs/nir.md

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

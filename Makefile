# Each target sets up what it needs from a fresh clone: a virtual environment in .venv, the package in
# editable mode and its two compiled modules. It takes Python >= 3.10, a C++20 compiler and make.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet
BUILD_FILES = pyproject.toml setup.py constraints.txt $(shell find csrc kernels/csrc CMakeLists.txt -type f)

.PHONY: demo test docs fuzz bench lint sanitizers dist clean

demo: .venv/.core
	.venv/bin/gfnet-fast demo --output demo.png

test: .venv/.dev
	.venv/bin/python -m pytest -q tests

# The documentation as a site, in build/site; a link that leads nowhere fails.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# Mutated files, numbers and calls, a hundred times as long as in the tests: SECONDS for each reader.
SECONDS ?= 300
fuzz: .venv/.dev
	GFNET_FUZZ_SECONDS=$(SECONDS) .venv/bin/python -m pytest -q tests/fuzz

# Every budget of the embedded model and what it replaces: rows in bench/results, curves in build/budgets.html.
bench: .venv/.report
	mkdir -p build
	.venv/bin/gfnet-fast bench --csv bench/results/budgets.csv --html build/budgets.html

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The C++ tests, plain and under the address, undefined-behaviour and thread sanitizers.
sanitizers: .venv/.dev
	PATH=$(CURDIR)/.venv/bin:$$PATH csrc/tests/run_sanitizers.sh

# A source distribution, and from it a wheel for this Python, in dist/. Wheels for others: cibuildwheel, see pyproject.toml.
dist: .venv/.dist
	rm -rf dist
	.venv/bin/python -m build --outdir dist
	.venv/bin/twine check --strict dist/*

# What only a GPU can show, for a machine whose PYTHON has torch, triton and the rest already: first what is
# broken (200 s), then what it gives (400 s). `gpu-files` before, anywhere: what a CPU can work out, in build/gpu.
OUT ?= build/gpu-results
.PHONY: gpu-files gpu-first gpu-proof
gpu-files:
	$(PYTHON) bench/fixtures.py

gpu-first:
	$(PYTHON) bench/gpu.py first --out $(OUT)

gpu-proof:
	$(PYTHON) bench/gpu.py proof --out $(OUT)

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "expected Python >= 3.10, got " + sys.version)'
	$(PYTHON) -m venv .venv

.venv/.core: .venv/bin/python $(BUILD_FILES)
	$(PIP) install -c constraints.txt -e .
	touch $@

# What an extra of the package adds; `pip install -e '.[dev]'` would build the package once more.
.venv/.dev .venv/.docs .venv/.report .venv/.dist: .venv/.%: .venv/.core
	.venv/bin/python -c 'import importlib.metadata as m; print(*(r.partition(";")[0] for r in m.requires("gfnet-fast") if "extra == \"$*\"" in r), sep="\n")' > $@.txt
	$(PIP) install -c constraints.txt -r $@.txt
	touch $@

clean:
	rm -rf .venv build dist

# What a developer runs, and all that CI calls. Each target sets up what it needs: a virtual environment in .venv, the package in it (a release
# build of the Rust core; Python sources are used where they lie) and the tools. Needed beforehand: CPython 3.11 or later, Rust 1.88 or later, make.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

# Shuttle tries this many schedules a model; loom explores all of them with at most so many preemptions.
SHUTTLE_ITERATIONS ?= 2000
LOOM_MAX_PREEMPTIONS ?= 3
# So many go through one port on the simulated engine.
PROACTOR_COMPLETIONS ?= 10000000

# What the compiled extension is made of.
SOURCES := pyproject.toml $(wildcard Cargo.lock) $(shell find Cargo.toml crates -name '*.rs' -o -name Cargo.toml)
PACKAGE := $(VENV)/.package-installed
TOOLS := $(VENV)/.tools-installed

# Cargo and pip use the same interpreter, so that neither rebuilds what the other has built.
export PYO3_PYTHON := $(CURDIR)/$(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

CLIPPY := -D warnings -D clippy::undocumented_unsafe_blocks -D clippy::missing_safety_doc -D unsafe_op_in_unsafe_fn

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help serve test test-rust test-models test-python test-windows test-free-threaded wheels bench lint docs check clean

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(PACKAGE) ## starts the console server on 127.0.0.1:60001; more options: make serve ARGS='--host 0.0.0.0'
	@exec $(VENV)/bin/proactor serve $(ARGS)

test: lint test-rust test-models test-python ## runs everything that a change must pass

test-rust: $(PACKAGE)
	PROACTOR_COMPLETIONS=$(PROACTOR_COMPLETIONS) cargo test -p proactor-core

test-models: $(PACKAGE)
	LOOM_MAX_PREEMPTIONS=$(LOOM_MAX_PREEMPTIONS) cargo test -p proactor-core --features loom --test 'loom_*'
	SHUTTLE_ITERATIONS=$(SHUTTLE_ITERATIONS) cargo test -p proactor-core --features shuttle --test 'shuttle_*'

test-python: $(TOOLS)
	$(RUN) pytest

# One profile for both, that of development, so that the standard library is built once and overflows are found; `make wheels` tries the release.
test-windows: ## runs the core's tests and the Python suite on Windows, under Wine; Debian 12, as root or with sudo: see docs/windows.md
	tools/windows/install
	tools/windows/cargo test -p proactor-core
	tools/windows/wheel --profile dev
	tools/windows/suite

wheels: export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
wheels: $(VENV)/bin/python ## builds the wheels into dist/, and tries each in a fresh environment; that for Windows under Wine: see docs/windows.md
	tools/wheels/linux $(abspath $(VENV)/bin/python)
	tools/wheels/windows

test-free-threaded: ## runs the Python tests without the interpreter's lock; builds Debian's CPython for that, unless FREE_THREADED_PYTHON names one
	tools/free-threaded

bench: $(PACKAGE) ## measures proactor and its peers; more options: make bench ARGS='...'
	$(VENV)/bin/python benches/run.py $(ARGS)

lint: $(TOOLS) ## formats, lints, types, and the stub of the native module
	cargo fmt --all --check
	cargo fmt --manifest-path benches/load/Cargo.toml --check
	cargo clippy --workspace --all-targets -- $(CLIPPY)
	cargo clippy -p proactor-core --features loom --test 'loom_*' -- $(CLIPPY)
	cargo clippy -p proactor-core --features shuttle --test 'shuttle_*' -- $(CLIPPY)
	cargo clippy --manifest-path benches/load/Cargo.toml --all-targets -- $(CLIPPY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) mypy.stubtest proactor._core

docs: $(TOOLS) ## runs every command, code block and docstring example of the documents
	$(RUN) pytest tests/docs

check: lint ## before a commit: lint and the tests that take seconds
	cargo test -p proactor-core
	$(RUN) pytest -m 'not slow'

clean: ## removes everything that was built or installed here
	cargo clean
	cargo clean --manifest-path benches/load/Cargo.toml
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	rm -f python/proactor/*.so
	find python tests benches examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v cargo >/dev/null || { echo "proactor's core is built with Rust, and cargo is missing: install Rust, see https://rustup.rs"; exit 1; }
	@cargo --version | awk '{ split($$2, v, "."); exit !(v[1] > 1 || v[2] >= 88) }' || \
		{ echo "proactor needs Rust 1.88 or later, and this is $$(cargo --version): rustup update, or install rustup, see https://rustup.rs"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "proactor needs CPython 3.11 or later: name one, as in make PYTHON=/usr/bin/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no virtual environment could be made; on Debian: apt-get install python3-venv"; exit 1; }

# A core that was built before is told from a stale one by its sources; both installations build it.
$(PACKAGE): $(SOURCES) | $(VENV)/bin/python
	@echo "building proactor; the first time takes a minute or two"
	@$(RUN) pip install --quiet --editable .
	@touch $@

$(TOOLS): $(SOURCES) | $(VENV)/bin/python
	@echo "building proactor, and installing what its tests need; the first time takes a minute or two"
	@$(RUN) pip install --quiet --editable '.[test]'
	@touch $@ $(PACKAGE)

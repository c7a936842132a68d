# The two commands: `make run` (build, serve the demo on every core) and `make test` (everything CI runs).
# Everything is installed into .venv; nothing outside this folder changes, except that where they are root and it is
# missing, `make run` asks apt for what HTTP/2 is built with, and `make test` for the tools its tests drive.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APP ?= shardserve.demo:app
PYTEST := $(BIN)/python -m pytest
# These share the cores (each leak program is a process of its own). The rest forks, or starts servers: no test of it
# may have threads beside it. So it is two lanes, each one test after the other: mostly one waits, the other computes.
PARALLEL := tests/conformance tests/leaks
SERVING := tests/faults tests/e2e tests/autobahn
COMPUTING := tests/unit tests/native tests/budget
SANITIZE = PYTHON=$(CURDIR)/$(BIN)/python bash native/tests/sanitize.sh
NATIVE := $(wildcard native/*.c native/*.h)

.PHONY: help run test serving computing build lint format unit native-tests fuzz-smoke sanitize pythons install-check tools generated \
        bench leaks fuzz h2spec autobahn clean

help:
	@echo "make run           build and serve $(APP) on every core (make run ARGS='--port 9000')"
	@echo "make test          lint, types, tests, sanitizers, every Python found: what CI runs"
	@echo "make unit          the tests alone, on this Python (ARGS='-k name')"
	@echo "make sanitize      the native tests under AddressSanitizer and UBSan"
	@echo "make bench         CPU per request against the installed peers (docs/perf-lab.md)"
	@echo "make leaks | fuzz  the long runs"
	@echo "make h2spec        h2spec, where it is installed, over HTTP/2 with and without TLS"
	@echo "make autobahn      Autobahn's WebSocket suite (ARGS='7 12.1.*' or ARGS=--smoke); needs a Python 2.7"
	@echo "make generated     rewrite the generated files (docs/reference)"
	@echo "make format        ruff format"

run: $(VENV)/run.stamp
	@echo "shardserve: open the URL below in a browser; Ctrl-C stops it"
	@exec $(BIN)/shardserve $(APP) $(ARGS)

test: tools build lint
	@$(BIN)/python -m tests.autobahn --prepare || echo "Autobahn's suite is not installed: its smoke test will skip"
	$(PYTEST) -q -n auto $(PARALLEL)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=line serving computing
	$(SANITIZE) conformance
	$(MAKE) --no-print-directory pythons install-check

serving: build
	$(PYTEST) -q -p no:cacheprovider $(SERVING)

computing: build
	$(PYTEST) -q -p no:cacheprovider $(COMPUTING)
	$(MAKE) --no-print-directory native-tests fuzz-smoke
	$(SANITIZE) native

# ---- set-up ----

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "shardserve needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(VENV)/bin/python pyproject.toml setup.py $(NATIVE)
	@sh .ci/nghttp2
	@echo "building shardserve (about half a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp pyproject.toml
	@echo "installing what the tests use"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

build: $(VENV)/test.stamp

tools:
	@sh .ci/tools

# ---- checks ----

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	sh .ci/c-warnings $(BIN)/python

format:
	$(BIN)/ruff check --fix . || true
	$(BIN)/ruff format .

generated: build
	$(BIN)/python -m shardserve.config.render

unit: build
	$(PYTEST) -q $(ARGS)

native-tests:
	$(MAKE) -C native/tests test

fuzz-smoke: build
	$(MAKE) -C native/tests fuzz-smoke PYTHON=$(CURDIR)/$(BIN)/python

sanitize: build
	$(SANITIZE)

pythons: build
	sh .ci/pythons

install-check:
	sh .ci/install-check $(PYTHON)

# ---- the long runs ----

bench: build
	$(BIN)/python -m perf peers install
	$(BIN)/python -m perf bench $(ARGS)

leaks: build
	SHARDSERVE_LEAK_REQUESTS=200000 $(PYTEST) -q tests/leaks

# A million mutated requests take about 17 minutes of it.
fuzz: build
	$(MAKE) -C native/tests fuzz PYTHON=$(CURDIR)/$(BIN)/python
	SHARDSERVE_MUTATIONS=1000000 SHARDSERVE_MUTATIONS_SEED=$$(date +%s) $(PYTEST) -q tests/conformance/test_mutations.py

h2spec: build
	$(PYTEST) -q -rs tests/e2e/test_h2spec.py

autobahn: build
	$(BIN)/python -m tests.autobahn $(ARGS)

clean:
	rm -rf $(VENV) .venv-* build .build *.egg-info shardserve/*.so

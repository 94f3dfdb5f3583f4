# Needs GNU make and Python 3.8 or later with its venv module; everything else is installed by the
# targets themselves, into .venv and .venvs/.

PYTHON ?= python3
PYTHONS ?= oldest newest unpacked
ARGS :=
COVERAGE := --cov
SECONDS := 60
SEED := 1
ROUNDS := 10000
KILLS := 100
GIGABYTES := 4
CONNECTIONS := 2000

VENV := .venv
TOOLS := .venvs/tools
FRESH := .venvs/package
ATHERIS := .venvs/atheris

# Pyright asks the network for a newer release otherwise.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# Another PYTHON, or other requirements, and the environment is made anew.
python-version := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
installed := $(VENV)/installed-$(python-version)
tested := $(VENV)/test-installed-$(python-version)
REQUIREMENTS := pyproject.toml setup.py trio_websocket/_version.py trio_websocket/_sansio/_speedups.c
TOOL_PACKAGES := -e .[test,lint,docs] build twine

# $(call pip,ENVIRONMENT,PACKAGES): what pip prints matters only when it fails.
pip = $(1)/bin/python -m pip install $(2) >$(1)/pip.log 2>&1 || { cat $(1)/pip.log >&2; exit 1; }
build = $(TOOLS)/bin/python -m build $(1) >$(TOOLS)/build.log 2>&1 || { cat $(TOOLS)/build.log >&2; exit 1; }

# Python files that differ from main, or are new.
changed = git diff --name-only --diff-filter=d $$(git merge-base HEAD main 2>/dev/null || echo HEAD) -- '*.py'; \
	git ls-files --others --exclude-standard -- '*.py'

MAKEFLAGS += --no-print-directory --no-builtin-rules
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo check test test-pure test-all test-minimum newer-pythons counterparts lint format docs package autobahn dropin soak \
	soak-sockets soak-limits soak-stay-connected soak-kills \
	fairness bombs stream-huge measure-compression bench instructions fuzz replay sanitize fuzz-atheris clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 21

demo: $(installed)  ## run the example server and client against each other
	@$(VENV)/bin/python examples/demo.py

check: $(tested) $(TOOLS)/installed  ## in a minute: unit tests, and lint of what changed since main
	@files=$$($(changed)); [ -z "$$files" ] || { set -ex; \
		$(TOOLS)/bin/ruff check $$files; \
		$(TOOLS)/bin/ruff format --check $$files; \
		$(TOOLS)/bin/mypy $$files; \
	}
	$(strip $(VENV)/bin/python -m pytest -q tests/unit $(ARGS))

test: $(tested)  ## all tests, with coverage; ARGS="tests/unit -k close --no-cov", PYTHON=python3.12
	$(strip $(VENV)/bin/python -m pytest $(COVERAGE) $(ARGS))

test-pure:  ## the suite without the extension in C, and without zlib-ng
	@TRIO_WEBSOCKET_NO_EXTENSIONS=1 TRIO_WEBSOCKET_NO_ZLIB_NG=1 $(MAKE) test COVERAGE=

test-all:  ## the suite on the oldest and newest Python found, and newer-pythons; PYTHONS="3.10 3.12", PYTHONS=all
	@set -e; pythons=$$($(PYTHON) tools/interpreters.py $(PYTHONS)); \
	for python in $$pythons; do \
		$(MAKE) test VENV=.venvs/$${python%%=*} PYTHON=$${python#*=} COVERAGE=; \
	done

test-minimum:  ## the suite with the oldest dependencies, on the oldest Python found
	@set -e; python=$$($(PYTHON) tools/interpreters.py oldest); \
	PIP_CONSTRAINT=tools/minimum.txt $(MAKE) test VENV=.venvs/minimum PYTHON=$${python#*=} COVERAGE=

newer-pythons:  ## unpack CPython 3.14 and 3.15 of Debian into .venvs/pythons, for test-all
	@PYTHON=$(PYTHON) tools/newer_pythons.sh

counterparts:  ## unpack proxies and a web server of Debian into .venvs/counterparts, for tests/slow
	@tools/counterparts.sh

lint: $(TOOLS)/installed  ## ruff, mypy, pyright
	$(TOOLS)/bin/ruff check .
	$(TOOLS)/bin/ruff format --check .
	$(TOOLS)/bin/mypy
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" pyright --ignoreexternal --verifytypes trio_websocket

format: $(TOOLS)/installed  ## what ruff can put right
	$(TOOLS)/bin/ruff check --fix .
	$(TOOLS)/bin/ruff format .

docs: $(TOOLS)/installed  ## the manual, in docs/_build/html
	$(TOOLS)/bin/python -m docs.pictures
	$(TOOLS)/bin/python -m sphinx -q -E -n -W --keep-going -b html docs docs/_build/html

package: $(TOOLS)/installed  ## sdist and wheels in dist/, checked and installed
	rm -rf dist
	@$(call build,)
	@TRIO_WEBSOCKET_PURE=1 $(call build,--wheel)
	$(TOOLS)/bin/twine check --strict dist/*
	$(TOOLS)/bin/python -m venv --clear $(FRESH)
	@$(call pip,$(FRESH),dist/*-cp38-abi3-*.whl)
	$(FRESH)/bin/python -m pip check
	$(FRESH)/bin/python -I tools/check_installed.py
	@$(call pip,$(FRESH),--force-reinstall --no-deps dist/*-py3-none-any.whl)
	$(FRESH)/bin/python -I tools/check_installed.py pure
	@CC=false $(call pip,$(FRESH),--force-reinstall --no-deps dist/*.tar.gz)  # without a compiler
	$(FRESH)/bin/python -I tools/check_installed.py pure

autobahn: $(tested)  ## the Autobahn test suite against our client and server
	$(strip $(VENV)/bin/python autobahn/run.py $(ARGS))

dropin: $(tested)  ## compare with trio-websocket 0.12.2
	$(strip $(VENV)/bin/python tools/dropin.py $(ARGS))

soak: $(tested)  ## operations cancelled at random; SECONDS=60 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_cancel --seconds $(SECONDS) --seed $(SEED) $(ARGS))

soak-sockets: SECONDS := 600
soak-sockets: $(tested)  ## one server and many clients; SECONDS=600 CONNECTIONS=2000 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_sockets --seconds $(SECONDS) --seed $(SEED) \
		--connections $(CONNECTIONS) $(ARGS))

soak-limits: $(tested)  ## every bound and time-out, measured
	$(strip $(VENV)/bin/python -m tools.soak_limits $(ARGS))

soak-stay-connected: $(tested)  ## clients whose server fails in every way; ROUNDS=10000 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_stay_connected --rounds $(ROUNDS) --seed $(SEED) $(ARGS))

soak-kills: $(tested)  ## a client whose server process is killed; KILLS=100 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_kills --kills $(KILLS) --seed $(SEED) $(ARGS))

fairness: SECONDS := 2
fairness: $(tested)  ## how long a flooding peer keeps other tasks waiting; SECONDS=2, for each flood
	$(strip $(VENV)/bin/python -m tools.fairness --seconds $(SECONDS) $(ARGS))

bombs: $(tested)  ## messages that inflate to 16 MiB: what they cost
	$(strip $(VENV)/bin/python -m tools.bombs $(ARGS))

stream-huge: $(tested)  ## one message from process to process; GIGABYTES=4
	$(strip $(VENV)/bin/python -m tools.stream_huge --gigabytes $(GIGABYTES) $(ARGS))

measure-compression: $(tested)  ## what the settings of compression cost, as a table
	$(strip $(VENV)/bin/python -m tools.measure_compression $(ARGS))

bench:  ## us and other libraries, measured in turn; ARGS=--quick, ARGS="--cases burst --peers ours"
	$(strip $(PYTHON) -m benchmarks $(ARGS))

instructions:  ## what each operation costs in instructions; needs valgrind, ARGS="--peers ours"
	$(strip $(PYTHON) -m benchmarks.instructions $(ARGS))

fuzz: $(tested)  ## hostile bytes for clients and servers; SECONDS=1800 SEED=1
	$(strip $(VENV)/bin/python -m tools.fuzz --seconds $(SECONDS) --seed $(SEED) $(ARGS))

replay: $(tested)  ## conversations before and after a change; ARGS="--record FILE", ARGS="--compare FILE"
	$(strip TRIO_WEBSOCKET_NO_ZLIB_NG=1 $(VENV)/bin/python -m tools.fuzz.replay $(ARGS))

sanitize: $(tested)  ## the extension in C with ASan and UBSan: its tests, and fuzzed; SECONDS=60 SEED=1
	$(strip $(VENV)/bin/python -m tools.sanitize --seconds $(SECONDS) --seed $(SEED) $(ARGS))

fuzz-atheris: $(ATHERIS)/installed  ## the same, guided by coverage; SECONDS=1800 SEED=1
	@if $(ATHERIS)/bin/python -c 'import atheris' 2>/dev/null; then \
		$(ATHERIS)/bin/python -m tools.fuzz.guided --seconds $(SECONDS) --seed $(SEED) $(ARGS); \
	else \
		rm $(ATHERIS)/installed; \
		echo "skipped: there is no atheris for Python $(python-version), says $(ATHERIS)/pip.log"; \
	fi

clean:  ## remove what the other targets made
	rm -rf .venv .venvs bench.json build dist autobahn/reports docs/_build *.egg-info .coverage .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	rm -f trio_websocket/_sansio/_speedups.*.so trio_websocket/_sansio/_speedups*.pyd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed-%: $(REQUIREMENTS)
	@echo "$(VENV): installing the package for Python $*"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(call pip,$(VENV),-e .)
	@touch $@

$(VENV)/test-installed-%: $(VENV)/installed-%
	@echo "$(VENV): installing what the tests need"
	@$(call pip,$(VENV),-e .[test])
	@touch $@

$(TOOLS)/installed: $(REQUIREMENTS)
	@echo "$(TOOLS): installing the tools"
	@set -e; python=$$($(PYTHON) tools/interpreters.py newest); $${python#*=} -m venv --clear $(TOOLS)
	@$(call pip,$(TOOLS),$(TOOL_PACKAGES))
	@touch $@

$(ATHERIS)/installed: $(REQUIREMENTS)
	@echo "$(ATHERIS): installing atheris"
	@$(PYTHON) -m venv --clear $(ATHERIS)
	@$(call pip,$(ATHERIS),-e .[test])
	@$(ATHERIS)/bin/python -m pip install --only-binary atheris atheris >$(ATHERIS)/pip.log 2>&1 || true
	@touch $@

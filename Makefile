# Needs GNU make and Python 3.8 or later with the venv module. The targets install everything else
# into .venv and .venvs/.

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

# Otherwise, pyright looks for a newer release on the network.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# The environments are rebuilt if PYTHON or the requirements change.
python-version := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
installed := $(VENV)/installed-$(python-version)
tested := $(VENV)/test-installed-$(python-version)
REQUIREMENTS := pyproject.toml setup.py trio_websocket/_version.py trio_websocket/_sansio/_speedups.c
TOOL_PACKAGES := -e .[test,lint,docs] build twine

# $(call pip,ENVIRONMENT,PACKAGES): run pip, and show its output only if it fails.
pip = $(1)/bin/python -m pip install $(2) >$(1)/pip.log 2>&1 || { cat $(1)/pip.log >&2; exit 1; }
build = $(TOOLS)/bin/python -m build $(1) >$(TOOLS)/build.log 2>&1 || { cat $(TOOLS)/build.log >&2; exit 1; }

# Python files that are new or differ from main.
changed = git diff --name-only --diff-filter=d $$(git merge-base HEAD main 2>/dev/null || echo HEAD) -- '*.py'; \
	git ls-files --others --exclude-standard -- '*.py'

MAKEFLAGS += --no-print-directory --no-builtin-rules
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo check test test-pure test-all test-minimum newer-pythons counterparts lint format docs package autobahn dropin soak \
	soak-sockets soak-limits soak-stay-connected soak-kills \
	fairness bombs stream-huge measure-compression bench instructions fuzz replay sanitize fuzz-atheris clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 21

demo: $(installed)  ## run the example server and client against each other
	@$(VENV)/bin/python examples/demo.py

check: $(tested) $(TOOLS)/installed  ## run unit tests, and lint files that changed since main; a minute
	@files=$$($(changed)); [ -z "$$files" ] || { set -ex; \
		$(TOOLS)/bin/ruff check $$files; \
		$(TOOLS)/bin/ruff format --check $$files; \
		$(TOOLS)/bin/mypy $$files; \
	}
	$(strip $(VENV)/bin/python -m pytest -q tests/unit $(ARGS))

test: $(tested)  ## run all tests with coverage; ARGS="tests/unit -k close --no-cov", PYTHON=python3.12
	$(strip $(VENV)/bin/python -m pytest $(COVERAGE) $(ARGS))

test-pure:  ## run all tests without the C extension and without zlib-ng
	@TRIO_WEBSOCKET_NO_EXTENSIONS=1 TRIO_WEBSOCKET_NO_ZLIB_NG=1 $(MAKE) test COVERAGE=

test-all:  ## run all tests on the oldest, the newest and the unpacked Pythons; PYTHONS="3.10 3.12", PYTHONS=all
	@set -e; pythons=$$($(PYTHON) tools/interpreters.py $(PYTHONS)); \
	for python in $$pythons; do \
		$(MAKE) test VENV=.venvs/$${python%%=*} PYTHON=$${python#*=} COVERAGE=; \
	done

test-minimum:  ## run all tests with the oldest dependencies, on the oldest Python
	@set -e; python=$$($(PYTHON) tools/interpreters.py oldest); \
	PIP_CONSTRAINT=tools/minimum.txt $(MAKE) test VENV=.venvs/minimum PYTHON=$${python#*=} COVERAGE=

newer-pythons:  ## unpack Debian's CPython 3.14 and 3.15 into .venvs/pythons, for test-all
	@PYTHON=$(PYTHON) tools/newer_pythons.sh

counterparts:  ## unpack Debian's proxies and web server into .venvs/counterparts, for tests/slow
	@tools/counterparts.sh

lint: $(TOOLS)/installed  ## run ruff, mypy and pyright
	$(TOOLS)/bin/ruff check .
	$(TOOLS)/bin/ruff format --check .
	$(TOOLS)/bin/mypy
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" pyright --ignoreexternal --verifytypes trio_websocket

format: $(TOOLS)/installed  ## fix what ruff can fix
	$(TOOLS)/bin/ruff check --fix .
	$(TOOLS)/bin/ruff format .

docs: $(TOOLS)/installed  ## build the manual in docs/_build/html
	$(TOOLS)/bin/python -m docs.pictures
	$(TOOLS)/bin/python -m sphinx -q -E -n -W --keep-going -b html docs docs/_build/html

package: $(TOOLS)/installed  ## build, check and install the sdist and the wheels in dist/
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

autobahn: $(tested)  ## run the Autobahn test suite against our client and server
	$(strip $(VENV)/bin/python autobahn/run.py $(ARGS))

dropin: $(tested)  ## compare with trio-websocket 0.12.2
	$(strip $(VENV)/bin/python tools/dropin.py $(ARGS))

soak: $(tested)  ## cancel operations at random; SECONDS=60 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_cancel --seconds $(SECONDS) --seed $(SEED) $(ARGS))

soak-sockets: SECONDS := 600
soak-sockets: $(tested)  ## run one server and many clients; SECONDS=600 CONNECTIONS=2000 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_sockets --seconds $(SECONDS) --seed $(SEED) \
		--connections $(CONNECTIONS) $(ARGS))

soak-limits: $(tested)  ## drive every bound and time-out to its limit
	$(strip $(VENV)/bin/python -m tools.soak_limits $(ARGS))

soak-stay-connected: $(tested)  ## clients whose server fails in every way; ROUNDS=10000 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_stay_connected --rounds $(ROUNDS) --seed $(SEED) $(ARGS))

soak-kills: $(tested)  ## a client whose server process is killed; KILLS=100 SEED=1
	$(strip $(VENV)/bin/python -m tools.soak_kills --kills $(KILLS) --seed $(SEED) $(ARGS))

fairness: SECONDS := 2
fairness: $(tested)  ## measure how long a flooding peer blocks other tasks; SECONDS=2 for each flood
	$(strip $(VENV)/bin/python -m tools.fairness --seconds $(SECONDS) $(ARGS))

bombs: $(tested)  ## measure the cost of small messages that decompress to 16 MiB
	$(strip $(VENV)/bin/python -m tools.bombs $(ARGS))

stream-huge: $(tested)  ## send one message between two processes; GIGABYTES=4
	$(strip $(VENV)/bin/python -m tools.stream_huge --gigabytes $(GIGABYTES) $(ARGS))

measure-compression: $(tested)  ## print a table of the cost of compression settings
	$(strip $(VENV)/bin/python -m tools.measure_compression $(ARGS))

bench:  ## measure this and other libraries; ARGS=--quick, ARGS="--cases burst --peers ours"
	$(strip $(PYTHON) -m benchmarks $(ARGS))

instructions:  ## count the instructions of each operation; needs valgrind, ARGS="--peers ours"
	$(strip $(PYTHON) -m benchmarks.instructions $(ARGS))

fuzz: $(tested)  ## send hostile bytes to clients and servers; SECONDS=1800 SEED=1
	$(strip $(VENV)/bin/python -m tools.fuzz --seconds $(SECONDS) --seed $(SEED) $(ARGS))

replay: $(tested)  ## compare conversations before and after a change; ARGS="--record FILE", ARGS="--compare FILE"
	$(strip TRIO_WEBSOCKET_NO_ZLIB_NG=1 $(VENV)/bin/python -m tools.fuzz.replay $(ARGS))

sanitize: $(tested)  ## test and fuzz the C extension with ASan and UBSan; SECONDS=60 SEED=1
	$(strip $(VENV)/bin/python -m tools.sanitize --seconds $(SECONDS) --seed $(SEED) $(ARGS))

fuzz-atheris: $(ATHERIS)/installed  ## run the fuzzer guided by coverage, with atheris; SECONDS=1800 SEED=1
	@if $(ATHERIS)/bin/python -c 'import atheris' 2>/dev/null; then \
		$(ATHERIS)/bin/python -m tools.fuzz.guided --seconds $(SECONDS) --seed $(SEED) $(ARGS); \
	else \
		rm $(ATHERIS)/installed; \
		echo "skipped: there is no atheris for Python $(python-version), says $(ATHERIS)/pip.log"; \
	fi

clean:  ## remove the files that the other targets made
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

# Everything here sets up what it needs by itself: system packages (when root), a virtual environment, the build.
# The second time it is quick.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PY := $(VENV)/bin/python
# More arguments for the program a target runs, e.g.  make test ARGS="-k reassembly"
ARGS ?=

.PHONY: help
help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: demo
demo: system-demo build  ## fetch and upload a file through the stack with the kernel's curl
	$(PY) -m ustack demo $(ARGS)

.PHONY: test
test: system-test build $(VENV)/.test  ## build, then run every test (as root, or what can be run without)
	$(PY) -m pytest $(ARGS)

.PHONY: build
build: $(VENV)/.build  ## build the extension modules in place, what changed of them
	$(PY) setup.py -q build_ext --inplace

.PHONY: lint
lint: $(VENV)/.test  ## ruff, mypy (Python and stubs), cython-lint
	$(PY) -m ruff check --output-format concise .
	$(PY) -m mypy
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint ustack_ext

.PHONY: docs
docs: build $(VENV)/.test  ## make the site of docs/ in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

.PHONY: portable
portable: build $(VENV)/.test  ## build as where there is no Linux, in a copy of the tree, and run what works everywhere
	tools/portable $(PY) $(ARGS)

.PHONY: sanitize
sanitize: build $(VENV)/.test  ## unit, sim and hostile tests under ASan and UBSan, in a copy of the tree
	tools/sanitize $(PY) $(ARGS)

.PHONY: bench
bench: system-bench build $(VENV)/.test  ## measure against the kernel, on this machine
	$(PY) -m bench $(ARGS)

.PHONY: conformance
conformance: system-test build $(VENV)/.test  ## check ustack and this kernel by the RFCs, write docs/conformance.md
	$(PY) -m ustack conformance --quiet --patience 75 --docs docs/conformance.md $(ARGS)

.PHONY: fuzz
fuzz: system-fuzz build $(VENV)/.test  ## coverage-guided fuzzing of the engine's input
	$(PY) -m tests.hostile.fuzz $(ARGS)

.PHONY: clean
clean:  ## remove what was built; .venv stays
	rm -rf build dist results *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ustack ustack_ext tap_harness tests tools -name __pycache__ -prune -exec rm -rf {} +
	find ustack_ext -name '*.so' -delete

.PHONY: system-build system-demo system-test system-bench system-fuzz
system-build system-demo system-test system-bench system-fuzz: system-%:
	@tools/system-packages $*

# The virtual environment, with what building and the command line need. The package is installed as a link to this checkout,
# without extensions: those are built in place by `build`.
$(VENV)/.build: pyproject.toml tools/requirements.py | system-build
	$(PY) -c '' 2>/dev/null || "$$(tools/find-python)" -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r <($(PY) tools/requirements.py build cli) wheel
	USTACK_ONLY=none $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test: $(VENV)/.build
	$(PY) -m pip install --quiet --disable-pip-version-check -r <($(PY) tools/requirements.py test interop bench docs)
	touch $@

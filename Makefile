# Needs Python 3.11 or newer:
#   make demo   train, export and bench on synthetic data, with a table and a page as the result
#   make test   the fast tests
#   make test-browser   tests of the page in the system's Chromium
#   make compare   compare this tree's exports of the short demo's network with those of the previous commit
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_FLAGS ?=
QUICK_DEMO := demo-quick
JOBS ?= 2
# `make lock`, `make licenses` and `make audit` use tools in a separate environment.
TOOLS := .venv-tools
TOOLS_INSTALLED := $(TOOLS)/.installed
TORTURE_FLAGS ?=
BASE_REF ?= HEAD~1

.PHONY: lock docs schemas reference licenses audit demo test coverage test-slow torture test-emulated test-browser lint install clean compare demo-quick

demo: $(INSTALLED)
	$(BIN)/edge-af demo $(DEMO_FLAGS)

demo-quick: $(INSTALLED)
	$(BIN)/edge-af demo --quick --out $(QUICK_DEMO)

# Exit code 0: no worse, or inconclusive; 1: slower, larger, worse, or beyond .ci/budget.yaml. BASE_REF= checks only the latter.
compare: $(INSTALLED)
	@test -d $(QUICK_DEMO)/runs/attend-fusion || $(MAKE) demo-quick
	sh .ci/compare_base.sh $(BIN) $(QUICK_DEMO) '$(BASE_REF)'

# Tests of `--target` need an OpenSSH server and adb (Debian: apt install openssh-server adb), or are skipped.
test: $(INSTALLED)
	$(BIN)/pytest -n $(JOBS) -m "not slow and not browser and not emulated"

# The fast tests with coverage of the package and its child processes; fails below 90 %.
coverage: $(INSTALLED)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS) -m "not slow and not browser and not emulated"
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --sort=cover

test-slow: $(INSTALLED)
	$(BIN)/pytest -n $(JOBS) -m "slow and not emulated"
	HYPOTHESIS_PROFILE=long $(BIN)/pytest -n $(JOBS) tests/test_readers.py

# Random kills, damaged files, hostile names, resource limits, concurrent runs and a soak test. Run as root to include
# full disks. TORTURE_FLAGS="--size short" takes 10 minutes on 2 cores, "--size long" hours; see --help.
torture: $(INSTALLED)
	$(BIN)/python tests/torture $(TORTURE_FLAGS)

# Aarch64 wheels in QEMU. Sets up emulation once (apt-get, no root); if that fails, the tests are skipped with the reason.
test-emulated: $(INSTALLED)
	-$(BIN)/edge-af targets setup emulated
	$(BIN)/pytest -m emulated -rs

# The page and the documentation site in the system's Chromium (Debian: apt install chromium).
test-browser: docs
	$(BIN)/pytest -m browser

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/prose.py

install: $(INSTALLED)

# The stamp is written last, so an interrupted install is repeated. pip checks every download against hashes.txt.
# PyTorch is only pinned by version, because its builds differ between sources.
$(INSTALLED): pyproject.toml constraints.txt hashes.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "edge-af needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r hashes.txt
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[train,export,dev]'
	@touch $@

# Update hashes.txt after a change to constraints.txt. It contains the hashes of all files of each pinned version.
lock: $(TOOLS_INSTALLED)
	$(TOOLS)/bin/uv pip compile --quiet --universal --no-deps --generate-hashes --no-header --no-annotate --no-emit-package torch \
		--python-version 3.11 constraints.txt --output-file hashes.txt

# The documentation site, in site/docs/index.html. It opens without a network.
docs: $(INSTALLED) $(TOOLS_INSTALLED)
	$(TOOLS)/bin/sphinx-build --quiet --fresh-env --write-all --fail-on-warning --keep-going -c docs . site

# Update the generated pages of docs/reference from the code.
reference: $(INSTALLED)
	$(BIN)/python .ci/reference.py

# Update docs/schemas from the dataclasses.
schemas: $(INSTALLED)
	$(BIN)/python .ci/schemas.py

# Update docs/reference/licenses.md from the installed packages.
licenses: $(INSTALLED) $(TOOLS_INSTALLED)
	$(BIN)/python .ci/licenses.py $(TOOLS)/bin/pip-licenses

# Check the pinned packages for known vulnerabilities. Exit code 0: none; 1: some; 3: inconclusive (no database).
audit: $(TOOLS_INSTALLED)
	@$(PYTHON) .ci/audit.py $(TOOLS)/bin/pip-audit

$(TOOLS_INSTALLED): Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check uv==0.13.9 pip-licenses==5.5.5 pip-audit==2.10.1 \
		sphinx==9.0.4 furo==2025.12.19 myst-parser==5.2.0
	@touch $@

clean:
	rm -rf $(VENV) site demo-out demo-quick .pytest_cache .mypy_cache .ruff_cache

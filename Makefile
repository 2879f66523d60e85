# make quickstart   trains, evaluates and reports on the generated dataset: runs/quickstart/report/index.html
#                   (prints the finished result when there is one; FRESH=1 trains again)
# make demo         a web page on this machine with the model and photos of examples/ (launch/demo.py)
# make test         the fast tests;  make test-all: the slow ones too
# make rehearsal    every command of docs/paper_recipe.md on a small generated COCO, narrow nets: a line for each
# make lint         ruff, the import contract, pyright
# make results    every method on shapes with several seeds of shots and noise: hours, resumes; SEEDS=2 is shorter
# make bench        times data loading, sampling, training steps and the detector: minutes, on its own; the studies are
#                   in benchmarks/README.md
# make clean        removes .venv and caches; runs/ and datasets/ stay
#
# Each target makes .venv first where it is missing or older than its requirements. PYTHON=python3.12 chooses
# the interpreter, CPU=1 leaves the CUDA wheels out where `nvidia-smi` finds a GPU.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# GPU wheels only where the driver answers; another answer than last time installs again
WHEELS := $(if $(CPU),cpu,$(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu))
REQUIREMENTS := $(if $(filter gpu,$(WHEELS)),requirements.txt,requirements-cpu.txt)
RUNTIME := .venv/.installed-$(WHEELS)
DEV := .venv/.installed-dev
DEMO := .venv/.installed-demo
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
CANDIDATES := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python
# compiled programs are kept between runs
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

.PHONY: help quickstart demo test test-all rehearsal lint results bench clean

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

$(PY):
	@for p in $(CANDIDATES); do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$p"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "make: no Python >= 3.11 found (looked for: $(strip $(CANDIDATES))): install one, or name it, e.g. make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "making .venv with $$("$$found" --version)"; \
	"$$found" -m venv --clear .venv || { rm -rf .venv; \
	  echo "make: $$found cannot make a virtual environment: install its venv package (Debian and Ubuntu: python3-venv)" >&2; exit 1; }

# order-only: a newer interpreter behind .venv/bin/python is no reason to install again
$(RUNTIME): $(REQUIREMENTS) | $(PY)
	@echo "installing $(REQUIREMENTS)$(if $(filter gpu,$(WHEELS)), (GPU found)): about a gigabyte, minutes"
	@$(PIP) install -r $(REQUIREMENTS)
	@# `import maskdiff_jax` works in this environment, whatever the current folder is
	@echo "$(CURDIR)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/maskdiff_jax.pth"
	@rm -f .venv/.installed-cpu .venv/.installed-gpu && touch $@

$(DEV): requirements-dev.txt | $(RUNTIME)
	@echo "installing requirements-dev.txt"
	@$(PIP) install -r requirements-dev.txt
	@touch $@

$(DEMO): requirements-demo.txt | $(RUNTIME)
	@echo "installing requirements-demo.txt"
	@$(PIP) install -r requirements-demo.txt
	@touch $@

demo: $(RUNTIME) $(DEMO)
	@$(PY) launch/demo.py --open

quickstart: $(RUNTIME)
	@$(PY) launch/quickstart.py $(if $(filter-out 0 no false,$(FRESH)),--fresh)

# two processes, each test file in one of them, in the order of tests/conftest.py
PYTEST := $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(RUNTIME) $(DEV)
	@$(PYTEST)

test-all: $(RUNTIME) $(DEV)
	@$(PYTEST) -m ""

rehearsal: $(RUNTIME)
	@$(PY) -m tests.rehearsal

lint: $(RUNTIME) $(DEV)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@.venv/bin/lint-imports --cache-dir .cache/import_linter
	@$(PY) -m pyright

results: $(RUNTIME)
	@$(PY) benchmarks/studies/shapes_grid.py --seeds=$(or $(SEEDS),5)

# what takes minutes and needs no photos, no trained run and no other library
BENCH := data_pipeline paste sampling detector
bench: $(RUNTIME)
	@for name in $(BENCH); do echo "== benchmarks/timing/$$name.py"; $(PY) "benchmarks/timing/$$name.py"; done

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` alone explains itself. Everything is installed into .venv by the first target that needs it.
PYTHON ?= python3
JOBS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
EXTRAS := app,deepspeed,gemini-legacy,openai,slurm,dev
QUIET := $(if $(MAKE_TERMOUT),,--quiet)
WITH_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-smoke app gpu relight study test test-fast test-long test-old test-slurm test-comfyui check docs format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install everything into .venv (PYTHON=python3.12 chooses the interpreter)

# Byte code is compiled here, since commands start three times as slowly without it and an environment may forbid Python to
# write it later (PYTHONDONTWRITEBYTECODE). The stamp comes last: an interrupted installation goes on where it was.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1)." \
	       "Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into .venv (once; a few minutes, some 5 GB with torch) ..."
	@$(PYTHON) -m venv .venv || { echo "No virtual environment: install python3-venv, then run make again."; exit 1; }
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null; then \
	  $(BIN)/uv pip install $(QUIET) --compile-bytecode --python $(BIN)/python --editable '.[$(EXTRAS)]'; \
	else \
	  $(BIN)/python -m pip install $(QUIET) --no-compile --disable-pip-version-check --editable '.[$(EXTRAS)]' && \
	  { $(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true; }; \
	fi || { echo "Installation failed (see above); run make again to go on."; exit 1; }
	@touch $@

demo: $(STAMP)  ## the whole method on the embedded small FLUX (MODEL=toybox_flux2: FLUX.2); again: resumes, or says that it is done
	@$(WITH_VENV) bash scripts/demo.sh

demo-smoke: $(STAMP)  ## the demo's chain with small sizes
	@$(WITH_VENV) bash scripts/demo.sh smoke

app: $(STAMP)  ## the web page, on the embedded small FLUX, with the adapters below outputs/ (make demo trains one)
	@$(WITH_VENV) dsd-app

gpu: $(STAMP)  ## measure speed and memory on this machine's GPU in ten minutes, without a download
	@$(WITH_VENV) python scripts/bench/gpu_report.py

relight: $(STAMP)  ## the model that keeps the structure: pictures of the toybox in another light (half an hour)
	@$(WITH_VENV) bash scripts/relight.sh

study: $(STAMP)  ## the comparison of students, baselines and seeds (hours)
	@$(WITH_VENV) bash scripts/study.sh

test: $(STAMP)  ## the tests, JOBS=2 at a time
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS)

test-fast: $(STAMP)  ## for work in progress: the tests that start no process and train nothing
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not process and not slurm and not long"

test-old: $(STAMP)  ## the pipeline's tests against the oldest libraries that pyproject.toml allows
	@$(WITH_VENV) bash scripts/test_old_libraries.sh

test-long: $(STAMP)  ## the tests that take minutes each: a soak of a provider, lost ranks under every launcher
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long

test-slurm: $(STAMP)  ## the job scripts on a Slurm of this one machine (root; slurmctld, slurmd, munge, slurm-client)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slurm tests/scripts/test_slurm.py

test-comfyui: $(STAMP)  ## every example workflow on a real ComfyUI: make test-comfyui COMFYUI_PATH=... COMFYUI_PYTHON=...
	@COMFYUI_PATH="$(COMFYUI_PATH)" COMFYUI_PYTHON="$(or $(COMFYUI_PYTHON),$(CURDIR)/$(BIN)/python)" OMP_NUM_THREADS=2 \
	  $(BIN)/python -m pytest -q -s tests/node_pack/test_comfyui_server.py

check: $(STAMP)  ## style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { echo "Not formatted; run: make format"; exit 1; }
	@$(BIN)/mypy

docs: $(STAMP)  ## the documentation as a site, in build/site; a broken link fails
	@$(BIN)/zensical build --strict --clean

format: $(STAMP)  ## rewrite the sources in the house style
	@$(BIN)/ruff check --fix --quiet; $(BIN)/ruff format

clean:  ## remove .venv and caches; outputs/ stays
	rm -rf .venv build dist .cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything a newcomer or CI needs. `make demo` and `make test` set up first; nothing needs root.
VENV ?= .venv
UV := $(VENV)/bin/uv
BIN := $(VENV)/bin
EXTRAS ?= torch,trees,spiking,mlops,dev
# Tests train every family, so they install every framework (some gigabytes more).
TEST_EXTRAS ?= all,dev
# pip reads PIP_FIND_LINKS, uv does not: hand it on, so that a site's own torch wheel is taken. Elsewhere uv picks
# the torch build that fits the machine (CPU where there is no GPU).
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifeq ($(strip $(UV_FIND_LINKS)),)
export UV_TORCH_BACKEND ?= auto
unexport UV_FIND_LINKS
endif
unexport PYTHONPATH
# Dozens of processes start here; without bytecode on disk each compiles every framework anew.
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV

.DEFAULT_GOAL := help
LOIHI := deployments/loihi
PG_CTL ?= $(lastword $(sort $(wildcard /usr/lib/postgresql/*/bin/pg_ctl)))
.PHONY: help setup loihi try-loihi demo test test-long lint format bench constraints clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv (Python 3.11 or 3.12) and install everything this project needs

# A Python of the right version is looked for first; uv fetches one only where there is none.
$(UV):
	@if command -v python3.11 >/dev/null && python3.11 -c '' 2>/dev/null; then python3.11 -m venv $(VENV); \
	elif command -v python3.12 >/dev/null && python3.12 -c '' 2>/dev/null; then python3.12 -m venv $(VENV); \
	elif command -v uv >/dev/null; then uv venv --seed --python 3.11 $(VENV); \
	else echo "make: Python 3.11 or 3.12 is needed (or uv, which can fetch one)"; exit 1; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'

$(VENV)/.installed: pyproject.toml constraints.txt | $(UV)
	@echo "installing into $(VENV) (once; a few minutes on a first run)"
	@$(UV) pip install --quiet --python $(BIN)/python -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $@

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(VENV)/.installed
	@echo "installing every framework into $(VENV) (once)"
	@$(UV) pip install --quiet --python $(BIN)/python -e '.[$(TEST_EXTRAS)]' -c constraints.txt
	@touch $@

loihi: setup $(LOIHI)/.venv/.installed ## the environment of the Loihi simulation (needs Python 3.10; docs/neuromorphic.md)

# Made from inside its folder, so that pyenv and uv both read its .python-version; hence uv by its whole path.
$(LOIHI)/.venv/.installed: $(LOIHI)/pyproject.toml $(LOIHI)/constraints.txt | $(UV)
	@cd $(LOIHI) && $(abspath $(UV)) venv --quiet --clear --python 3.10 .venv 2>.problem || { \
	  echo "no Loihi simulation ($$(grep -m1 error .problem)): install Python 3.10 (uv python install 3.10, or" \
	    "pyenv install 3.10), then make loihi"; rm -f .problem; exit 1; }
	@cd $(LOIHI) && $(abspath $(UV)) pip install --quiet --python .venv/bin/python -e . -c constraints.txt 2>.problem || { \
	  echo "no Loihi simulation ($$(tail -n1 .problem)): try again with make loihi"; rm -f .problem; exit 1; }
	@rm -f $(LOIHI)/.problem; touch $@

# Where it can't be had, the line above says so, and what needs it is skipped.
try-loihi: setup
	@$(MAKE) --no-print-directory -s loihi 2>/dev/null || true

demo: setup try-loihi ## the main job, end to end, on simulated traffic (under five minutes)
	@$(BIN)/robustidps demo

test: setup $(VENV)/.installed-all try-loihi ## every framework, then lint, types and tests
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-long: setup $(VENV)/.installed-all ## what takes minutes (faults, whole systems), and PostgreSQL as the distribution packs it
	@ROBUSTIDPS_TEST_PG_CTL=$(PG_CTL) $(BIN)/python -m pytest -n 2 --dist loadfile -m 'long or postgresql or fault' $(PYTEST_ARGS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: setup ## print every performance figure as a ratio against its peer
	@$(BIN)/python -m benchmarks

constraints: setup ## resolve the newest versions that work together, and write constraints.txt anew
	@echo 'torch==2.13.0' > .torch-pin
	@$(UV) pip compile --quiet pyproject.toml --extra all --extra dev --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header -c .torch-pin -o .resolved
	@{ head -n 2 constraints.txt; grep -vE '^(nvidia-|cuda-|triton|torch=|-e |#|robustidps|\.)' .resolved; cat .torch-pin; } \
	  > .constraints && mv .constraints constraints.txt && rm -f .resolved .torch-pin

clean: ## remove the environment and caches (never a home folder)
	@rm -rf $(VENV) $(LOIHI)/.venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

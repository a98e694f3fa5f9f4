# Every target makes .venv itself and may be interrupted and called again.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install report test lab readme clean

# Idle OpenMP threads that spin slow down everything else on a small machine.
export OMP_WAIT_POLICY := passive
export HF_HUB_DISABLE_TELEMETRY := 1

SCALE ?= tiny
VENV  := .venv
RUN   := $(VENV)/bin
READY := $(VENV)/.installed

# 3.11 is what the tested set was tested on; any later one that works is the second choice.
ENOUGH := -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13 python3.14,$(shell $(p) $(ENOUGH) >/dev/null 2>&1 && command -v $(p))))

help:
	@echo "make report   run every notebook at scale $(SCALE), then build the book (book/_build/html)"
	@echo "make test     ruff, mypy, pytest"
	@echo "make lab      the notebooks in JupyterLab"
	@echo "make readme   the computed parts of README.md, from committed tables"
	@echo "make install  only .venv;   make clean  remove what was built, keep .venv and data/cache"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later with venv is needed (apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3.11."; exit 2; }
	@test -x $(RUN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing into $(VENV) (about 2 minutes and 3 GB the first time)"
	$(RUN)/python -m pip install -q -c constraints.txt -e '.[cpu,gpu,lm,book,png,cluster,test]'
	@touch $@

# No hub: what the report needs is in the repository.
report: $(READY)
	@HF_HUB_OFFLINE=1 $(RUN)/repro report --scale $(SCALE)

test: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lab: $(READY)
	$(RUN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

readme: $(READY)
	$(RUN)/python -m repro.book.readme

clean:
	rm -rf book/_build book/_generated book/executed build dist .pytest_cache .ruff_cache .mypy_cache
	find repro tests data -name __pycache__ -type d -prune -exec rm -rf {} +

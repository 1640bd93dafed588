# make demo    the paper in miniature on this machine, from rendered videos to the report
# make serve   the demo's videos to be searched, on a page and over HTTP; Ctrl-C ends it
# make test    the fast tests (PYTEST_ARGS="-m slow" and the like for others)
# make lint    ruff and mypy
# make setup   the environment; the targets above call it, and a second run does nothing
#
# VENV=folder uses (or makes) another environment, PYTHON=python3.12 another interpreter for it.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
STAMP := $(VENV)/.gve-ready

.PHONY: setup demo serve test lint format lock
.NOTPARALLEL:

setup: $(STAMP)

$(STAMP): setup/cpu.lock pyproject.toml setup/environment.py setup/torchvision_hook.py
	@$(PYTHON) setup/environment.py "$(VENV)"
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/python jobs/demo.py

serve: $(STAMP)
	$(VENV)/bin/gve serve --config demo.yaml

test: $(STAMP)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: $(STAMP)
	$(VENV)/bin/python setup/lock.py

# make demo    runs all jobs on this machine in about six minutes, from rendered videos to a search
# make paper   runs the paper in miniature: the same jobs on eight times as many videos
# make serve   serves the demo's index, with a search page and an HTTP API; Ctrl-C stops it
# make test    runs the fast tests (PYTEST_ARGS="-m slow" runs the slow ones)
# make lint    runs ruff and mypy
# make docs    builds the documentation into build/docs; fails at a dead link
# make setup   creates the environment if it is missing or outdated; the targets above call it
#
# VENV=folder uses another environment (or creates it), PYTHON=python3.12 another interpreter for it.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
STAMP := $(VENV)/.gve-ready

.PHONY: setup demo paper serve test lint docs format lock
.NOTPARALLEL:

setup: $(STAMP)

$(STAMP): setup/cpu.lock pyproject.toml setup/environment.py setup/torchvision_hook.py
	@$(PYTHON) setup/environment.py "$(VENV)"
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/gve demo --config demo.yaml

paper: $(STAMP)
	$(VENV)/bin/gve demo --config paper.yaml

serve: $(STAMP)
	@test -d runs/demo/index || { echo "make serve: there is no runs/demo/index; run make demo first"; exit 2; }
	$(VENV)/bin/gve serve --config demo.yaml

test: $(STAMP)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: $(STAMP)
	$(VENV)/bin/python setup/lock.py

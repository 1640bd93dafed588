# make demo    runs all jobs on this machine in about six minutes, from rendered videos to a search
# make paper   runs the paper in miniature: the same jobs on eight times as many videos
# make serve   serves the demo's index, with a search page and an HTTP API; Ctrl-C stops it
# make test    runs the fast tests (PYTEST_ARGS="-m slow" runs the slow ones)
# make lint    runs ruff and mypy
# make docs    builds the documentation into build/docs; fails at a dead link
# make audit   looks for vulnerabilities in the code and in the locked packages, and lists those in build/sbom.json
# make setup   creates the environment if it is missing or outdated; the targets above call it
#
# VENV=folder uses another environment (or creates it), PYTHON=python3.12 another interpreter for it.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
STAMP := $(VENV)/.gve-ready

.PHONY: setup demo paper serve test lint docs audit format lock
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

# In an environment of its own, because these tools are not among the locked packages.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet bandit==1.9.4 cyclonedx-bom==7.5.0 pip-audit==2.10.1
	build/audit/bin/cyclonedx-py requirements --output-format JSON --output-file build/sbom.json setup/cpu.lock
	build/audit/bin/bandit --quiet --recursive -lll --skip B202 gve_ray jobs
	sed 's/+cpu//' setup/cpu.lock > build/audit/packages.txt
	build/audit/bin/pip-audit --disable-pip --no-deps --requirement build/audit/packages.txt

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: $(STAMP)
	$(VENV)/bin/python setup/lock.py

# make run    the site with its sandbox on http://127.0.0.1:8000/
# make test   every test, on SQLite and, where one answers, on PostgreSQL
# make bench  measure, and print a table: on PostgreSQL where one answers, and the services on SQLite
# make kill   kill -9 at 200 random moments, after which no link may be lost
# make soak   twenty minutes of mixed traffic with random faults: see docs/soak.md
# make dist   the wheel, tried on empty projects
# make lint   format, lint, types, layers, migrations
# make audit  known vulnerabilities of all that is installed

PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3 python \
	$${PYENV_ROOT:-$$HOME/.pyenv}/versions/*/bin/python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null \
	&& { echo $$python; break; }; done)
BIN := .venv/bin

.PHONY: setup run test dist bench kill soak lint audit format
.DEFAULT_GOAL := run

setup: .venv/ready

.venv/ready: requirements.txt tests/requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.12 or later with venv was found. Install one, or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

run: setup
	@$(BIN)/python -m project.development dotenv
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python -m project.development users
	@$(BIN)/honcho start || test $$? -eq 130 # ended by Ctrl-C

test: setup
	@$(BIN)/python -m tests.run $(ARGS)

dist: setup
	@rm -rf dist
	@$(BIN)/python -m build --quiet --no-isolation --outdir dist
	@$(BIN)/python -m pytest tests/wheel $(ARGS)

kill: setup
	@$(BIN)/python -m tests.killing $(ARGS)

soak: setup
	@$(BIN)/python -m tests.soak $(ARGS)

bench: setup
	@$(BIN)/python -m tests.benchmarks $(ARGS)

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py makemigrations --check --dry-run

audit: setup
	@$(BIN)/python -m tests.audit

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

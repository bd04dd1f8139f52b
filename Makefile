# celery-guardrails: `make` shows what there is. `make demo` and `make test` need nothing but Python 3.10+ and make.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check test-oldest bench servers clean

PYTHON ?= $(shell sh house/find_python.sh newest)
OLDEST_PYTHON ?= $(shell sh house/find_python.sh oldest)
# how many test processes at once; each starts servers of its own
JOBS ?= 2
# further arguments for pytest, such as PYTEST_ARGS="-k redis"
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
HOUSE := $(wildcard celery_guardrails tests example_project bench house)
PACKAGING := setup.cfg setup.py pyproject.toml

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-example ## play the whole story on this machine, no server needed (under 2 minutes)
	$(BIN)/python -m example_project.demo

test: $(VENV)/.installed-dev servers check ## everything: check, and all tests with coverage
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

check: $(VENV)/.installed-dev ## lint, format, types, direction of imports, lengths
	$(BIN)/ruff check $(HOUSE)
	$(BIN)/ruff format --check $(HOUSE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python house/lengths.py $(HOUSE)

test-oldest: $(OLDEST)/.installed servers ## the integration tests on the oldest Celery and Python that setup.cfg promises
	$(OLDEST)/bin/python --version
	$(OLDEST)/bin/celery --version
	$(OLDEST)/bin/python -m pytest -n $(JOBS) --dist loadfile tests/integration $(PYTEST_ARGS)

bench: $(VENV)/.installed-dev servers ## measure against plain Celery, write bench/results.md (needs Redis)
	$(BIN)/python -m bench

servers: ## see to Redis, RabbitMQ and PostgreSQL: found, else installed when root
	sh tests/install_servers.sh

clean: ## remove what make made
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(HOUSE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed-example: $(PACKAGING) | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[example]'
	touch $@

$(VENV)/.installed-dev: $(PACKAGING) | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $(VENV)/.installed-example $@

$(OLDEST)/.installed: $(PACKAGING) tests/oldest.txt
	@test -n "$(OLDEST_PYTHON)"
	rm -rf $(OLDEST)
	"$(OLDEST_PYTHON)" -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q -e '.[test]' -c tests/oldest.txt
	touch $@

# celery-guardrails: `make` shows what there is. `make demo` and `make test` need nothing but Python 3.10+ and make.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test quick check docs pictures coverage test-seams test-oldest package-test bench chaos brokers servers clean

PYTHON ?= $(shell sh house/find_python.sh newest)
OLDEST_PYTHON ?= $(shell sh house/find_python.sh oldest)
# how many test processes at once; they mostly wait
JOBS ?= 8
# whole files, the longest first; tests/spreading.py says which are dealt out otherwise
SPREAD := --dist loadfile --no-loadscope-reorder
# what `make quick` runs: no worker, and of all servers only PostgreSQL
QUICK_TESTS := tests/contract tests/typing tests/unit
# further arguments for pytest, such as PYTEST_ARGS="-k redis"
PYTEST_ARGS ?=
# further arguments for the chaos suite, such as CHAOS_ARGS="--broker redis --seed 7"
CHAOS_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
SEAMS := .venv-seams
# what depends most on the versions of Celery and kombu; OLDEST_TESTS=tests/integration runs all of them
OLDEST_TESTS ?= tests/integration/worker/test_runtime_loss.py tests/integration/worker/test_unread_messages.py \
  tests/integration/redis/test_keeping.py tests/integration/redis/test_strange_records.py \
  tests/unit/policy tests/unit/transport tests/unit/app/test_config_report.py tests/unit/test_seam.py
# hundreds of workers are started: none of them should have to compile the package again
export PYTHONDONTWRITEBYTECODE :=
HOUSE := $(wildcard celery_guardrails tests example_project bench house docs)
PACKAGING := setup.cfg setup.py pyproject.toml

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-example ## play the whole story on this machine, no server needed (under 2 minutes)
	$(BIN)/python -m example_project.demo

test: $(VENV)/.installed-dev servers check ## everything: check, and all tests (what fails gets a second chance, alone)
	@# the first time the tests are compiled: once, not by each process at the same time
	@test -d tests/unit/__pycache__ || $(BIN)/python -m pytest --collect-only -q >/dev/null
	$(BIN)/python house/second_chance.py -n $(JOBS) $(SPREAD) $(PYTEST_ARGS)

quick: $(VENV)/.installed-dev servers check ## for daily work, under 2 minutes: check, unit and contract tests
	$(BIN)/python -m pytest -n $(JOBS) $(SPREAD) $(QUICK_TESTS) $(PYTEST_ARGS)

coverage: $(VENV)/.installed-dev servers ## all tests once more, with coverage by branches (slower)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n $(JOBS) $(SPREAD) $(PYTEST_ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

check: $(VENV)/.installed-dev ## lint, format, types, direction of imports, lengths
	$(BIN)/ruff check $(HOUSE)
	$(BIN)/ruff format --check $(HOUSE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python house/lengths.py $(HOUSE)

docs: $(VENV)/.installed-docs ## build the documentation into build/docs; a warning, or a link that leads nowhere, is a fault
	rm -rf build/docs
	$(BIN)/sphinx-build -b html -W --keep-going -n -q -E -d build/doctrees docs build/docs
	$(BIN)/python house/links.py build/docs

pictures: $(VENV)/.installed-example ## draw the documentation's pictures anew, from what people see (half a minute)
	$(BIN)/python -m house.pictures

test-seams: $(VENV)/.installed-dev ## look for Celery's private names in every release that setup.cfg allows, and in the newest
	$(BIN)/python house/releases.py $(SEAMS)

test-oldest: $(OLDEST)/.installed servers ## the integration tests on the oldest Celery and Python that setup.cfg promises
	$(OLDEST)/bin/python --version
	$(OLDEST)/bin/celery --version
	$(OLDEST)/bin/python house/second_chance.py -n $(JOBS) $(SPREAD) $(OLDEST_TESTS) $(PYTEST_ARGS)

package-test: $(VENV)/.installed-dev servers ## build sdist and wheel, install them outside the checkout, and use them there
	$(BIN)/python -m pytest tests/package $(PYTEST_ARGS)

bench: $(VENV)/.installed-bench servers ## measure against plain Celery and others, write bench/results.md (needs Redis, RabbitMQ, PostgreSQL)
	$(BIN)/python -m bench

chaos: $(VENV)/.installed-dev servers ## break everything while 5,000 tasks run on each broker, then balance the books (about 30 minutes)
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

brokers: $(VENV)/.installed-dev servers ## a Redis and a RabbitMQ to try a change on by hand, until Ctrl-C
	$(BIN)/python -m tests.brokers

servers: ## see to Redis, RabbitMQ and PostgreSQL: found, else installed when root
	sh tests/install_servers.sh

clean: ## remove what make made
	rm -rf $(VENV) $(OLDEST) $(SEAMS) build dist *.egg-info .coverage .coverage.* htmlcov .flaky
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

# apart from the rest: only the measurements need it
$(VENV)/.installed-bench: $(PACKAGING) | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[bench]'
	touch $(VENV)/.installed-example $(VENV)/.installed-dev $@

# apart from the rest: whoever only runs the tests does not wait for Sphinx
$(VENV)/.installed-docs: $(PACKAGING) | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[docs]'
	touch $@

$(OLDEST)/.installed: $(PACKAGING) tests/oldest.txt
	@test -n "$(OLDEST_PYTHON)"
	rm -rf $(OLDEST)
	"$(OLDEST_PYTHON)" -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q -e '.[test]' -c tests/oldest.txt
	touch $@

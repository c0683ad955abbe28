# From a clean clone each target does its own set-up; `make` alone lists them.
# ARGS is handed to the program a target runs: make test ARGS="-k lane"

VENV_PYTHON = .venv/bin/python
ARGS =
# Extras to install as well, with what they need: make setup EXTRAS="anthropic groq"
EXTRAS =
# Processes that share the tests, each with a Kafka and a Redis of its own; 0: none but make's own.
PROCESSES = 2
SHARED = -n $(PROCESSES) --dist worksteal
# secure: tests run on a Kafka and a Redis with TLS, users and rights, each role with its own.
KAFKA =
ON = $(if $(KAFKA),--kafka $(KAFKA))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check promises layout lock chaos bench dist clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## install everything into this folder (uv, .venv, Kafka's jars)
	@sh infra/bootstrap.sh setup $(EXTRAS)

demo: setup ## watch Kafka, Redis and a small model answer requests
	@$(VENV_PYTHON) -m millstream.gateway demo $(ARGS)

test: setup ## run the tests, on real Kafka and Redis, but for those that take minutes
	$(VENV_PYTHON) -m pytest $(SHARED) $(ON) -m "not slow" --durations-file=.millstream/test-durations.json $(ARGS)

test-slow: setup ## run the others: many seeds, workers and brokers that are killed, Docker
	$(VENV_PYTHON) -m pytest $(SHARED) $(ON) -m slow $(ARGS)

check: setup ## format, lint, types, layers, published schemas, unit tests
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports
	$(VENV_PYTHON) -m millstream.schemas check
	$(VENV_PYTHON) -m pytest $(SHARED) -m "not slow" tests/unit $(ARGS)

promises: setup ## list the promises and rules of docs/ARCHITECTURE.md, and the tests that show each
	@$(VENV_PYTHON) -m tests.promises

layout: setup ## list the folders of the source and their modules, and the slowest files of make test
	@$(VENV_PYTHON) -m tests.layout

chaos: setup ## end workers, brokers, Redis and the network under load, and count
	$(VENV_PYTHON) -m tests.chaos $(ARGS)

bench: setup ## measure raw aiokafka, the engine and the whole path, side by side
	$(VENV_PYTHON) -m benchmarks $(ARGS)

dist: setup ## build the wheel that an app's environment installs, and the source distribution, into dist/
	@rm -rf dist
	@$(VENV_PYTHON) -m hatchling build --directory dist
	@echo "To install it: docs/how-to/install.md"

lock: setup ## resolve requirements.lock, requirements-extras.lock and Kafka's jars anew
	sh infra/bootstrap.sh lock
	$(VENV_PYTHON) -m millstream.infra lock-jars

# Without .venv nothing can run on the data, and nothing could tell.
clean: ## delete the data of Kafka and Redis, unless they are running, and what was built
	rm -rf dist
	@if [ -x $(VENV_PYTHON) ]; then $(VENV_PYTHON) -m millstream.infra clean; else rm -rf .millstream/data; fi

distclean: clean ## delete all that was installed and downloaded too
	rm -rf .venv .tools .millstream

PYTHON_IN_VENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install demo test faults pictures bench bench-quick docs check wheel clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## install what is missing: PostgreSQL with pg_cron (Debian), a virtual environment with dlqctl in .venv
	@tests/setup.sh

demo: install ## watch pg_cron retry 200 webhooks, in a throw-away server; under four minutes
	@$(PYTHON_IN_VENV) -m dlqctl demo

test: install ## run the whole test suite; `make test ARGS='-k name'` runs a part of it
	@$(PYTHON_IN_VENV) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: install ## 1,000 webhooks in a storm of faults, twelve minutes for each sender; DLQCTL_FAULTS_SEED=n replays a plan
	@DLQCTL_FAULTS=long $(PYTHON_IN_VENV) -m pytest tests/faults -s $(ARGS)

pictures: install ## draw the pictures in docs/ anew; needs tmux, chromium, prometheus and prometheus-sql-exporter
	@PYTHONPATH=. $(PYTHON_IN_VENV) docs/pictures.py

SPEED := speed.intake speed.turn speed.flat speed.drain speed.horizon speed.upkeep speed.memory peers.compare
TROUBLE := trouble.head_of_line trouble.fairness trouble.neighbour trouble.outage

bench: install ## run the benchmarks, about two hours; `make bench ARGS=speed.turn` runs one: see bench/README.md
	@for name in $(or $(ARGS),$(SPEED) $(TROUBLE)); do $(PYTHON_IN_VENV) -m bench.$$name || exit; done

bench-quick: install ## has anything become several times as expensive? under two minutes, and a part of CI
	@$(PYTHON_IN_VENV) -m bench.quick

docs: install ## write docs/sql.md and docs/commands.md, from the comments in the database and from the commands themselves
	@$(PYTHON_IN_VENV) docs/generate.py

check: install ## check style and types
	@$(PYTHON_IN_VENV) -m ruff check
	@$(PYTHON_IN_VENV) -m mypy

wheel: install ## build the wheel into dist/
	@rm -rf dist
	@$(PYTHON_IN_VENV) -m build --wheel

clean: ## remove everything that was made here; installed packages stay
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

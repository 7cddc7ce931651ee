# Every verb works on a fresh Linux machine with Python 3.11+ (venv) and make; see `make help`.
# Arguments for the program go into ARGS:  make demo ARGS="--exit"

SHELL := /bin/sh
ARGS ?=
# Tests wait more than they compute. Each worker has a Kafka and a Postgres of its own.
SPREAD := --numprocesses logical --maxprocesses 4 --dist worksteal
VENV := .venv
CONTENDERS := .venv-contenders
AUDIT := .venv-audit
BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.newsloom-demo
DEV_READY := $(VENV)/.newsloom-dev

.DEFAULT_GOAL := help
.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -- use ---------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(DEMO_READY)  ## a real Kafka and Postgres, the samples through them, a summary (ARGS="--exit" returns)
	@$(BIN)/newsloom demo $(ARGS)

.PHONY: trace
trace: $(DEMO_READY)  ## what becomes of one record: make trace ARGS="path/to/record.md"
	@$(BIN)/newsloom trace $(ARGS)

.PHONY: services-stop
services-stop:  ## stop the Kafka and Postgres that the demo started
	@$(BIN)/newsloom services stop

# -- check -------------------------------------------------------------------------------------------

.PHONY: test
test: $(DEV_READY)  ## the whole test suite against real services (ARGS="tests/unit -x" narrows it)
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

.PHONY: chaos
chaos: $(DEV_READY)  ## faults of all kinds on real services, 5 minutes (ARGS="--seconds 60 --seed 7 --only F4,F23")
	$(BIN)/python -m tests.faults.chaos $(ARGS)

.PHONY: figures
figures: $(DEV_READY)  ## the guarantee's figures: bounces, kills, recovery, outages (ARGS="bounce-hard --seed 7")
	$(BIN)/python -m tests.faults.figures $(ARGS)

.PHONY: simulation
simulation: $(DEV_READY)  ## the ingest flow through 20,000 schedules of disasters (ARGS="-n 2" or "-s")
	NEWSLOOM_TEST_SCHEDULES=20000 $(BIN)/python -m pytest tests/simulation $(ARGS)

.PHONY: alerts
alerts: $(DEV_READY)  ## each alert provoked on a running system, and the runbook tried (ARGS="--only poison")
	@$(BIN)/python -m tests.ops.provoke $(ARGS)

.PHONY: mutants
mutants: $(DEV_READY)  ## take out each safety line: does a test notice? (ARGS="NAME..." for some)
	$(BIN)/python tools/mutants $(ARGS)

.PHONY: lint
lint: $(DEV_READY)  ## ruff, mypy, import contracts, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

.PHONY: fix
fix: $(DEV_READY)  ## let ruff mend and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: quality
quality: $(DEV_READY)  ## accuracy of addresses, copies and stories on labelled texts, as a table and JSON
	@$(BIN)/python -m bench.quality $(ARGS)

.PHONY: explain
explain: $(DEV_READY)  ## plans and times of the cookbook's queries on 500,000 articles (ARGS="--ingest 50")
	@$(BIN)/python -m bench.explain $(ARGS)

.PHONY: bench
bench: $(DEV_READY) $(CONTENDERS)/.ready  ## newsloom beside its limits and competitors: a table and JSON (ARGS="--records 2000")
	@$(BIN)/python -m bench.run --contenders $(CONTENDERS)/bin/python $(ARGS)

.PHONY: bench-full
bench-full: $(DEV_READY) $(CONTENDERS)/.ready  ## the same over 100,000 records; takes as long as it needs
	@$(BIN)/python -m bench.run --contenders $(CONTENDERS)/bin/python --records 100000 \
		--output bench/results/bench-full.json $(ARGS)

.PHONY: bench-linker
bench-linker: $(DEV_READY)  ## the linker at the end of a full window: a table and JSON (ARGS="--articles 200000")
	@$(BIN)/python -m bench.linking $(ARGS)

.PHONY: bench-figures
bench-figures: $(DEV_READY)  ## latency, start, memory, WAL, conflicts; ARGS="growth": cost at 2 million articles
	@$(BIN)/python -m bench.figures $(ARGS)

.PHONY: flame
flame: $(DEV_READY)  ## where ingest's CPU time goes, as a picture: docs/flame-ingest.svg (ARGS="--workload full")
	@$(BIN)/python -m bench.flame $(ARGS)

.PHONY: coverage
coverage: $(DEV_READY)  ## the test suite with branch coverage
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

.PHONY: install
install: $(DEV_READY)  ## create .venv with everything in it (the other verbs do so as needed)

# -- maintain ----------------------------------------------------------------------------------------

COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	--all-build-deps --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	--no-header --no-annotate $(ARGS)

.PHONY: lock
lock: $(DEV_READY)  ## recompute the lock files (ARGS="--upgrade" takes newer versions)
	$(COMPILE) --extra lang --extra embedded --extra dev -o requirements-dev.lock pyproject.toml
	$(COMPILE) -c requirements-dev.lock --extra lang --extra embedded -o requirements-demo.lock pyproject.toml
	$(COMPILE) -c requirements-dev.lock -o requirements.lock pyproject.toml

.PHONY: lock-jars
lock-jars: $(DEV_READY)  ## recompute the list of Kafka's jars and their SHA-256
	$(BIN)/python tools/lock-jars

.PHONY: audit
audit: $(AUDIT)/.ready  ## known vulnerabilities of what the lock files name (asks OSV; says so when offline)
	@tools/audit $(AUDIT)/bin

.PHONY: sbom
sbom: $(AUDIT)/.ready  ## CycloneDX bills of materials into dist/, checked against the lock files; offline
	@$(AUDIT)/bin/python tools/sbom $(AUDIT)/bin dist

.PHONY: clean
clean:  ## remove .venv, caches and build output (not .newsloom, where the demo's data is)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist \
		service/*.egg-info .coverage htmlcov
	find service tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What newsloom is compared with has its own needs, so it has its own environment.
$(CONTENDERS)/.ready: bench/contenders/requirements.txt
	@python3 -m venv $(CONTENDERS)
	@$(CONTENDERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/contenders/requirements.txt
	@touch $@

$(AUDIT)/.ready: tools/audit-requirements.txt
	@python3 -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check -r tools/audit-requirements.txt
	@touch $@

# The stamps make a second run instant. Each lock file names the whole of what it installs.
$(DEMO_READY): tools/install requirements-demo.lock pyproject.toml
	@if [ -e $(DEV_READY) ] && [ $(DEV_READY) -nt pyproject.toml ] && [ $(DEV_READY) -nt requirements-demo.lock ]; \
		then :; else tools/install requirements-demo.lock; fi
	@touch $@

$(DEV_READY): tools/install requirements-dev.lock pyproject.toml
	@tools/install requirements-dev.lock
	@touch $@

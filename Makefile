# The commands of the house. POSIX shell; GNU make or BSD make's common subset.

SHELL = /bin/sh
.DEFAULT_GOAL := help

# A Python to build .venv with, when you know better than the search below: make venv PYTHON=/usr/bin/python3.11
PYTHON =
VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
EXTRAS = pipeline,embedded,dev
BENCH_STAMP = $(VENV)/.installed-bench
# Quix Streams wants an older Kafka client than Meterline, so it lives apart.
PEERS = .venv-peers
PEERS_STAMP = $(PEERS)/.installed
# Bytewax 0.21.1 has wheels for these and no others.
USABLE = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
comma := ,
NOT_USABLE = $(if $(PYTHON),PYTHON=$(PYTHON) is none of them: name one$(comma) or leave it out,none of them was found: install one of them$(comma) or uv)
# Where `make kafka` listens, and where it keeps the broker's jars.
KAFKA_PORT = 9092
# Tests of one file stay in one process, and in their order. 0 runs all of them in this one, for a debugger.
TEST_PROCESSES = 2
ARGS =

.PHONY: help venv demo test slow lint check crash bench kafka kafka-test up clean

help: ## Print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## Create .venv and install Meterline with everything that it needs for work

# The candidates are run, not merely found: a pyenv shim may exist for a version that is not installed. An environment
# whose Python has gone or is of the wrong version is made anew.
$(STAMP): pyproject.toml constraints.txt
	@if [ -x $(BIN)/python ] && $(BIN)/python -c '$(USABLE)' 2>/dev/null; then :; else \
		found=; \
		for candidate in $(if $(PYTHON),"$(PYTHON)",python3.12 python3.11 python3.10 python3); do \
			if "$$candidate" -c '$(USABLE)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
		done; \
		rm -rf $(VENV); \
		if [ -n "$$found" ]; then \
			echo "Creating $(VENV) with $$found"; \
			"$$found" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
		elif [ -z "$(PYTHON)" ] && command -v uv >/dev/null 2>&1; then \
			echo "No Python 3.10 to 3.12 on the path: uv fetches 3.12"; \
			uv venv --quiet --seed --python 3.12 $(VENV) || { rm -rf $(VENV); exit 1; }; \
		else \
			echo "Meterline needs Python 3.10, 3.11 or 3.12 (its engine, Bytewax 0.21.1, has no wheels for any other)," \
				"and $(NOT_USABLE)." >&2; \
			exit 1; \
		fi; \
	fi
	@echo "Installing Meterline into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]" -c constraints.txt
	@touch $(STAMP)

demo: $(STAMP) ## Run the whole job on made-up events and print the margin report
	@$(BIN)/meterline demo $(ARGS)

test: $(STAMP) ## Run the tests, with Kafka's mock cluster and ClickHouse in the process (ARGS="-k rating" passes on)
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

slow: $(STAMP) ## Run the tests that start and end the job again and again, which make test leaves to this and to CI
	@METERLINE_TEST_SLOW=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m slow $(ARGS)

lint: $(STAMP) ## Check lint rules, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: lint test ## Everything that has to hold before a commit: lint, tests, and benchmarks at a small size
	@$(BIN)/python -m benchmarks --smoke

crash: $(STAMP) ## Break each rule of exactly-once to see it noticed, crash the job at a thousand steps, kill its processes and the SDK's
	@$(BIN)/python -m tests.simulation.crash --mutations
	@$(BIN)/python -m tests.simulation.crash $(ARGS)
	@$(BIN)/python -m tests.simulation.processes
	@$(BIN)/python -m tests.simulation.fuzz
	@$(BIN)/python -m tests.metering.crash
	@METERLINE_TEST_LONG=1 $(BIN)/python -m pytest -m "long or slow"

bench: $(BENCH_STAMP) $(PEERS_STAMP) ## Run the benchmarks in full (ARGS="throughput workers" for some)
	@$(BIN)/python -m benchmarks $(ARGS)

$(BENCH_STAMP): $(STAMP)
	@echo "Installing what benchmarks need besides"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS),bench]" -c constraints.txt
	@touch $(BENCH_STAMP)

# A benchmark that misses a peer says so and goes on without it.
$(PEERS_STAMP): benchmarks/peers.txt $(STAMP)
	@rm -rf $(PEERS)
	@echo "Installing the peers that benchmarks run into $(PEERS)"
	@$(BIN)/python -m venv $(PEERS)
	@if $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt; \
	then touch $(PEERS_STAMP); \
	else echo "The peers did not install: benchmarks go on without them." >&2; rm -rf $(PEERS); fi

kafka: $(STAMP) ## Start Apache Kafka, one node, on loopback, until Ctrl-C (Java 17 and Maven; KAFKA_PORT=9092)
	@$(BIN)/python -m tests.kafka_broker serve --port $(KAFKA_PORT)

kafka-test: $(STAMP) ## Run every Kafka test on a real Apache Kafka, on a free port (Java 17 and Maven)
	@METERLINE_TEST_SLOW=1 $(BIN)/python -m tests.kafka_broker run -- $(BIN)/python -m pytest -m "kafka or broker" $(ARGS)

up: ## Build and start Kafka, ClickHouse and the job in containers (Docker; set CLICKHOUSE_PASSWORD)
	@docker compose up --build -d

clean: ## Remove .venv and everything that was built or cached; data is left alone
	@rm -rf $(VENV) $(PEERS) .kafka build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything a person does here. `make run` and `make test` install what they need, and nothing else is required.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Figures are of an optimised build of Python, as the image's is. Distributions build theirs so (profile-guided);
# what a version manager compiles mostly is not, and takes a fifth more CPU.
BENCH_PYTHON ?= $(firstword $(wildcard /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11) $(PYTHON))
BENCH_VENV := .venv-bench
# An environment that forbids bytecode makes each process compile the gateway again: a third of a second of CPU at every start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint unit long sandbox bench bench-quick bench-peers scale counts container lock clean

run: $(VENV)/installed            ## start the gateway on the embedded default, with a demo model, key and balance
	@$(BIN)/gateway serve

# A machine that is busy with other things makes a wait run out now and then. What failed while three tests ran at a time is
# run once more alone, and the output says so; what fails twice fails. The key of a sandbox is for `make sandbox` alone.
test: $(VENV)/installed-dev lint  ## everything a change must pass
	@unset STRIPE_TEST_KEY; $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 12 || { \
	  [ $$? = 1 ] && echo "what failed beside other tests, once more alone:" && \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none --maxfail 1; }

lint: $(VENV)/installed-dev       ## formatting of imports, bans, ranks, types
	$(BIN)/ruff check gateway tests bench
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

unit: $(VENV)/installed-dev       ## the quick part of the suite
	$(BIN)/python -m pytest tests/core tests/pricing tests/identity tests/metering tests/proxy

long: $(VENV)/installed-dev       ## the random tests at length: a million operations and steps of money, a thousand kills, 250,000 requests
	RANDOM_OPERATIONS=1000000 RANDOM_HISTORIES=1000000 CHAOS_KILLS=1000 RECOVERY_LOSSES=500 KEEPING_LOSSES=1000 LOST_REPLIES=100000 \
	  EXACTLY_K_REPEATS=500 RECOVERY_THINNED=1 RECOVERY_UNDONE=100 BILLING_KILLS_EVERY=1 BILLING_COPIES=10 SANDBOX_JOURNEYS=7 $(BIN)/python -m pytest -s \
	  tests/balance/test_random_operations.py tests/balance/test_keeping.py tests/balance/test_lost_replies.py \
	  tests/ledger/test_random_histories.py tests/ledger/test_recovery.py tests/chaos/test_kills.py tests/chaos/test_recovery.py tests/path/test_exactly_k.py \
	  tests/billing/test_inbox.py tests/billing/test_overage.py tests/billing/test_told.py tests/billing/test_sandbox.py

sandbox: $(VENV)/installed-dev    ## the journeys of selling in a sandbox of Stripe, with its key: STRIPE_TEST_KEY=sk_test_... make sandbox
	@test -n "$$STRIPE_TEST_KEY" || { echo "give the key of a sandbox: STRIPE_TEST_KEY=sk_test_... make sandbox"; exit 1; }
	$(BIN)/python -m pytest -rs tests/billing/test_told.py

bench: $(BENCH_VENV)/installed bench-peers    ## CPU per request and per chunk, added latency, beside nginx, haproxy and the peers (25 minutes)
	$(BENCH_VENV)/bin/python -m bench

scale: $(BENCH_VENV)/installed    ## what stays the same with many keys, streams, requests and events that wait (40 minutes)
	$(BENCH_VENV)/bin/python -m bench.scale

counts: $(VENV)/installed-dev     ## what a request costs in calls, bytecodes, Redis, SQL: the table that the tests hold it against, anew
	$(BIN)/python -m bench.counts --write

bench-quick: $(BENCH_VENV)/installed          ## the same in two minutes: whether it works, and about how much; no results are kept
	$(BENCH_VENV)/bin/python -m bench --quick

bench-peers: $(BENCH_VENV)/installed          ## install the peers into bench/.peers; what cannot be is left out of a run
	@$(BENCH_VENV)/bin/python -m bench.peers

container:                        ## build the image, start it, ask it for an answer, stop it; CONTAINER names another builder than docker
	sh deploy/check-container.sh

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && apt-get install -y -qq python3-venv >/dev/null && $(PYTHON) -m venv --clear $(VENV); } \
	  || { rm -rf $(VENV); echo "python3 needs its venv module: apt-get install python3-venv"; exit 1; }

$(VENV)/installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	@test -e $(VENV)/installed-dev || echo "installing into $(VENV) (about a minute, once)"
	@test -e $(VENV)/installed-dev || $(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/installed

$(BENCH_VENV)/installed: requirements-dev.lock pyproject.toml
	@$(BENCH_PYTHON) -m venv $(BENCH_VENV) 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && apt-get install -y -qq python3-venv >/dev/null && $(BENCH_PYTHON) -m venv --clear $(BENCH_VENV); } \
	  || $(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BENCH_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

lock:                             ## renew both lock files (needs uv); no index address is written
	uv pip compile -q pyproject.toml --group build --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-header -o requirements.lock
	uv pip compile -q pyproject.toml --group build --group dev --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-header -o requirements-dev.lock

clean:                            ## remove the environment and caches; ./data stays
	rm -rf $(VENV) $(BENCH_VENV) bench/.peers bench/.quick .mypy_cache .ruff_cache .pytest_cache build dist

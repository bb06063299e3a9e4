# Two commands on a fresh machine: `make run` and `make test`.
ACCEL ?= cpu
VENV ?= .venv
PORT ?= 8080
PYTHON ?= python3
TEST_PROCESSES ?= 2
BENCH_ADS ?= 10000 100000
BENCH_PEERS ?=
BENCH_GROWTH ?=
BENCH_NIGHT ?= --scales .3 3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test check bench loadtest help

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

run: $(VENV)/.$(ACCEL)  ## install, make the demo data, run one night, serve on 127.0.0.1:$(PORT)
	$(BIN)/mdrec run --port $(PORT)

test: $(VENV)/.$(ACCEL)-dev  ## install with test tools, run every test in $(TEST_PROCESSES) processes (PYTEST="-n 0 tests/server": others, in one)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST)

check: $(VENV)/.$(ACCEL)-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy contracts server abtest indexer trainer deploy

loadtest: $(VENV)/.$(ACCEL)-dev  ## Locust, headless, against a running gateway (MDREC_URL, MDREC_LOAD_DATASET)
	$(BIN)/locust -f loadtests/locustfile.py --headless --only-summary \
	  --users $${USERS:-16} --spawn-rate 16 --run-time $${SECONDS_TO_RUN:-60}s --host $${MDREC_URL:-http://127.0.0.1:$(PORT)}

bench: $(VENV)/.$(ACCEL)-dev  ## measure side by side, an hour of two idle cores: training, ranker, search, user rows, whole servers, growth, swaps, nights
	$(BIN)/python -m loadtests.training
	$(BIN)/python -m loadtests.kernels rankers
	$(BIN)/python -m loadtests.search $(BENCH_ADS)
	$(BIN)/python -m loadtests.user_rows
	$(BIN)/python -m loadtests.peers $(BENCH_PEERS)
	$(BIN)/python -m loadtests.peers.stages
	MDREC_HOME=.mdrec/bench $(BIN)/python -m loadtests.kernels
	$(BIN)/python -m loadtests.peers.growth $(BENCH_GROWTH)
	$(BIN)/python -m loadtests.swap
	$(BIN)/python -m loadtests.nights $(BENCH_NIGHT)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian and Ubuntu, apt install python3-venv"; exit 1; }

$(VENV)/.$(ACCEL): pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[$(ACCEL)]'
	@touch $@

$(VENV)/.$(ACCEL)-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[$(ACCEL),dev,load]'
	@touch $@ $(VENV)/.$(ACCEL)

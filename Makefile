# What can be done here. Anything longer than a line is in scripts/.

PROMPT ?= a red circle on a blue background
DEVICES ?= 1
STATE_DIR ?= .state
ONCE ?=
# As they were given: a $ in a prompt is a dollar, and no variable of make's.
override PROMPT := $(value PROMPT)
override STATE_DIR := $(value STATE_DIR)
export PROMPT STATE_DIR PYTHON

.DEFAULT_GOAL := help
.PHONY: help run test test-faults test-faults-long test-failpoints test-unsure test-slow test-upgrade test-clients test-full gpu-check verify stubs states metrics dashboards check-dashboards check-alerts record-alerts lint format types \
	train-tiny-image export-tiny-image export-tiny-video obey train-tiny-video obey-video \
	bench-scheduler bench-devices bench-steps bench-mixed bench-overload bench-gateway bench-flood bench-pauses bench-store bench-metrics bench-engines bench-int8 soak test-wheel simulate-faults mutants fuzz fuzz-guided lock clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 20
	@echo
	@echo 'make run PROMPT="a green ring" DEVICES=2 ONCE=1 STATE_DIR=.state PYTHON=python3.12'

run: .venv/.embedded ## start everything, draw PROMPT, serve until Ctrl-C (ONCE=1: stop after it)
	@.venv/bin/atelier up --devices $(DEVICES) --state-dir "$$STATE_DIR" \
		$(if $(filter-out 0 no false,$(ONCE)),--once,--prompt) "$$PROMPT"

test: .venv/.dev ## run every check and every test
	@scripts/check.sh

test-slow: .venv/.dev ## run the tests that take more than 20 seconds each
	@.venv/bin/pytest -m slow

MINUTES ?= 30
FAULT_SEED ?=
test-faults: .venv/.embedded .venv/.dev ## kill, freeze, cut and delay the parts of a real stack, and check every promise (3 minutes)
	@.venv/bin/python -m tests.faults $(if $(FAULT_SEED),--seed $(FAULT_SEED))

test-faults-long: .venv/.embedded .venv/.dev ## the same for MINUTES, with failpoints and with 200 in flight; writes benchmarks/results/faults.*
	@.venv/bin/python -m tests.faults --minutes $(MINUTES) --out benchmarks/results $(if $(FAULT_SEED),--seed $(FAULT_SEED))

test-failpoints: .venv/.embedded .venv/.dev ## a process ends, or stands, at each failpoint, and each promise is checked (12 minutes)
	@.venv/bin/python -m tests.faults --points $(if $(FAULT_SEED),--seed $(FAULT_SEED))

test-unsure: .venv/.dev ## the integration tests, with 1 % of statements and stored objects that succeed and are told to have failed (8 minutes)
	@$(if $(FAULT_SEED),FAULT_SEED=$(FAULT_SEED)) .venv/bin/python -m pytest -p tests.support.unsure -n 3 --dist loadfile tests/integration

test-clients: .venv/.dev ## clients in other languages, built into build/clients and run (some minutes the first time)
	@scripts/install_clients.sh
	@.venv/bin/pytest -m slow tests/clients

test-upgrade: .venv/.dev ## run an earlier version, FROM=COMMIT, on today's schema and beside today's code
	@scripts/test_upgrade.sh "$(FROM)"

test-full: .venv/.dev ## run the tests on models of full size (an hour; SDXL is left out below 20 GiB of free memory)
	@.venv/bin/pytest -m full

gpu-check: .venv/.dev ## run what needs an NVIDIA GPU; fails where there is none
	@scripts/gpu_check.sh

verify: .venv/.dev ## rebuild what is generated and compare it; lint the contract
	@scripts/verify.sh

stubs: .venv/.dev ## compile protos/ to atelier/v1
	@scripts/stubs.sh .

states: .venv/.dev ## draw docs/states.md from the state table
	@.venv/bin/python scripts/draw_states.py

metrics: .venv/.dev ## write docs/metrics.md from the table of instruments
	@.venv/bin/python scripts/write_metrics.py

dashboards: .venv/.dev ## write deploy/grafana/ from scripts/dashboards.py
	@.venv/bin/python scripts/write_dashboards.py

check-dashboards: .venv/.embedded .venv/.dev ## ask every dashboard's every question of a real Prometheus beside a stack under load (2 minutes)
	@scripts/install_prometheus.sh
	@.venv/bin/pytest -m slow tests/e2e/test_dashboards.py

check-alerts: .venv/.dev ## alerts and their routing, by promtool and amtool (unpacked into build/prometheus where missing)
	@scripts/install_prometheus.sh
	@.venv/bin/pytest tests/unit/test_alerts.py tests/alerts

record-alerts: .venv/.embedded .venv/.dev ## induce each alert's fault in a real house, and record what is scraped (12 minutes)
	@.venv/bin/python -m tests.alerts.record

lint: .venv/.dev ## ruff and the import rules
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports

format: .venv/.dev ## let ruff put the code in form
	@.venv/bin/ruff check --fix . && .venv/bin/ruff format .

types: .venv/.dev ## mypy, strict
	@.venv/bin/mypy

train-tiny-image: .venv/.dev ## train checkpoints/tiny-image again (about half an hour)
	@.venv/bin/python -m exporters.tiny.train --out checkpoints/tiny-image

export-tiny-image: .venv/.dev ## checkpoints/tiny-image -> triton_repo
	@.venv/bin/python -m exporters export checkpoints/tiny-image --name tiny-image

export-tiny-video: .venv/.dev ## checkpoints/tiny-video -> triton_repo
	@.venv/bin/python -m exporters export checkpoints/tiny-video --name tiny-video

obey: .venv/.dev ## measure how well tiny-image does what prompts say
	@.venv/bin/python -m exporters.tiny.obey --checkpoint checkpoints/tiny-image

train-tiny-video: .venv/.dev ## train checkpoints/tiny-video again (about half an hour)
	@.venv/bin/python -m exporters.tiny.video_train --out checkpoints/tiny-video

obey-video: .venv/.dev ## measure how well tiny-video does what prompts say
	@.venv/bin/python -m exporters.tiny.video_obey --checkpoint checkpoints/tiny-video

SCENARIOS ?=
TRACE ?=
bench-scheduler: .venv/.dev ## policies compared (SCENARIOS=DIR of folders, TRACE=DIR of GenTD26)
	@.venv/bin/python -m benchmarks.bench_scheduler $(if $(SCENARIOS),--scenarios "$(SCENARIOS)") \
		$(if $(TRACE),--trace "$(TRACE)")

bench-devices: .venv/.embedded .venv/.dev ## the house over eight sleeping devices, beside its simulator (15 minutes)
	@.venv/bin/python -m benchmarks.bench_devices

bench-steps: .venv/.embedded .venv/.dev ## what a step costs, and ways of batching side by side (5 minutes)
	@.venv/bin/python -m benchmarks.bench_steps

bench-mixed: .venv/.embedded .venv/.dev ## 200 generations of every kind at once, then 2,000 and the agent's memory (20 minutes)
	@.venv/bin/python -m benchmarks.bench_mixed

bench-overload: .venv/.embedded .venv/.dev ## ten times what two sleeping devices can do (2 minutes)
	@.venv/bin/python -m benchmarks.bench_overload

bench-gateway: .venv/.embedded .venv/.dev ## submits, gets and 5,000 watchers, beside a bare echo (3 minutes)
	@.venv/bin/python -m benchmarks.bench_gateway

bench-flood: .venv/.embedded .venv/.dev ## a tenant's submits alone, and beside another's flood (2 minutes)
	@.venv/bin/python -m benchmarks.bench_flood

bench-pauses: .venv/.dev ## Python's collector with 10,000 queued generations (4 minutes)
	@.venv/bin/python -m benchmarks.bench_pauses

FINISHED ?= 10000000
bench-store: .venv/.dev ## what FINISHED generations of history cost the hot path (15 minutes, 20 GB of disk for ten million)
	@.venv/bin/python -m benchmarks.bench_store --finished $(FINISHED)

bench-metrics: .venv/.dev ## what metrics cost: calls with and without, side by side (half a minute)
	@.venv/bin/python -m benchmarks.bench_metrics

bench-engines: .venv/.dev ## engines of Stable Diffusion 1.5's structure, built without a GPU (minutes, 7 GB)
	@.venv/bin/python -m benchmarks.bench_engines

soak: MINUTES = 10
soak: .venv/.embedded .venv/.dev ## a mixed load for MINUTES (10): memory, descriptors, shared memory, tables must not grow
	@.venv/bin/python -m benchmarks.bench_soak --minutes $(MINUTES)

bench-int8: .venv/.dev ## INT8 against single precision on tiny-image, side by side
	@.venv/bin/python -m benchmarks.bench_int8

test-wheel: ## build the wheel, install it elsewhere, and draw with it
	@scripts/test_wheel.sh

lock: .venv/.dev ## write locks/ again from pyproject.toml
	@scripts/lock.sh

SCHEDULES ?= 1000
SEED ?= 1
TRACE ?=
simulate-faults: .venv/.dev ## the live scheduler under SCHEDULES random schedules of faults, from SEED on (4 minutes)
	@.venv/bin/python -m tests.simulated --schedules $(SCHEDULES) --seed $(SEED) $(if $(TRACE),--trace)

CASES ?= 100000
FUZZ_SEED ?=
fuzz: .venv/.embedded .venv/.dev ## CASES requests that no caller should send, to every method; writes benchmarks/results/fuzz.* (10 minutes)
	@.venv/bin/python -m tests.fuzz --cases $(CASES) --out benchmarks/results $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))
	@EXAMPLES=300 .venv/bin/python -m pytest -q tests/integration/test_two_tenants.py

fuzz-guided: .venv/.dev ## what reads requests in the gateway, by libFuzzer for 5 minutes (35 MB, into build/atheris)
	@.venv/bin/pip install --quiet --no-deps --upgrade --target build/atheris atheris==3.0.0
	@PYTHONPATH=build/atheris .venv/bin/python -m tests.fuzz.guided -max_total_time=300 -max_len=4096 -artifact_prefix=build/

mutants: .venv/.dev ## plant faults that break a promise, one at a time; each must be found (15 minutes)
	@.venv/bin/python scripts/mutants.py

clean: ## remove what can be made again; pictures and .state stay
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Stamps: installing is repeated only when what it depends on has changed.
.venv/.embedded: pyproject.toml locks/embedded.txt
	@scripts/install.sh locks/embedded.txt
	@touch $@

.venv/.dev: pyproject.toml locks/dev.txt
	@scripts/install.sh locks/dev.txt
	@touch $@ .venv/.embedded

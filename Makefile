# `make demo` and `make test` need nothing but Python 3.10+, make and the network; both set up
# what they need and reuse it the next time. Written for GNU make 3.81 (macOS) and later.

# Many containers set it: the tests would then be compiled anew by each process of each run.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
ARGS ?=
QUICK ?=
MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help setup demo test thorough newest lint docs wheel lab catboost images serverless tables benchmark soak fuzz clean lock

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv from requirements.lock and fetch DJL's engine (PYTHON=python3.12, TORCH=cpu)
	@sh tools/setup

demo: setup ## train, package and serve six models: notebooks 0 to 5 and 9 against one local endpoint
	@$(BIN)/mme demo $(ARGS)

test: setup ## run the tests (ARGS="-k archive" for some of them)
	@$(BIN)/python -m pytest -q -n 4 --dist loadfile $(ARGS)

thorough: setup ## run the tests, those that take long among them: whole notebooks, small benchmarks, kills
	@$(BIN)/python -m pytest -q -n 4 --dist loadfile -m "thorough or not thorough" $(ARGS)

newest: setup ## try the newest releases of moto, botocore and jgo, where they are newer than ours
	@MMEKIT_TEST_NEWEST=1 $(BIN)/python -m pytest -n 0 -rsP tests/test_newest.py $(ARGS)

lint: setup ## ruff and mypy --strict
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

docs: setup ## the site in build/site, with a reference of classes and commands; a broken link fails
	@$(BIN)/python tools/pages.py

wheel: setup ## build wheel and sdist, and try them in a fresh environment and a foreign folder
	@$(BIN)/python tools/try_wheel.py

lab: setup ## JupyterLab on the notebooks, with a local endpoint that ends when it does
	@$(BIN)/mme up -- $(BIN)/jupyter lab notebooks $(ARGS)

execute = MME_QUICK=$(QUICK) $(BIN)/mme up -- $(BIN)/jupyter nbconvert --to notebook --execute \
  --output-dir build/notebooks notebooks/0_set_up.ipynb

catboost: setup ## notebook 6: CatBoost on DJL Serving and Multi Model Server (QUICK=1: a short one)
	@$(execute) notebooks/6_catboost_on_two_servers.ipynb

images: setup ## notebook 7: image classifiers on MXNet, ONNX and TorchScript (QUICK=1: a short one)
	@$(execute) notebooks/7_images.ipynb

serverless: setup ## notebook 8: 160 and more clients on a serverless endpoint (QUICK=1: a short one)
	@$(execute) notebooks/8_serverless_endpoint.ipynb

tables: setup ## notebook 9: tables with names, texts, dates and gaps (a part of `make demo`)
	@$(execute) notebooks/9_tables.ipynb

benchmark: setup ## measure the first figures of docs/benchmarks.md (needs `make demo` first; ARGS=--publish)
	@$(BIN)/python benchmarks/main_job.py $(ARGS)

soak: setup ## faults at random under load for twenty minutes (ARGS="--minutes 60")
	@$(BIN)/python benchmarks/soak.py $(ARGS)

fuzz: setup ## random requests and files against servers and readers, for some ten minutes (MINUTES=60)
	@MMEKIT_FUZZ_SECONDS=$$(($(MINUTES) * 15)) MMEKIT_FUZZ_EXAMPLES=$$(($(MINUTES) * 500)) \
	  $(BIN)/python -m pytest tests/fuzz --timeout $$(($(MINUTES) * 90)) $(ARGS)

clean: ## remove what was built (.venv stays)
	@rm -rf .cache build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache catboost_info
	@find packaging model_packages notebooks tests -name __pycache__ -prune -exec rm -rf {} +

lock: setup ## compile requirements.lock anew from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
	  --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
	  --upgrade --quiet --output-file requirements.lock

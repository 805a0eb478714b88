# `make demo` or `make test` alone set everything up on a fresh machine. VENV=… uses an environment of your own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.PHONY: demo test test-all lint format wheel setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (a few minutes, about 6 GB with torch)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

# The main job on phantoms. Real data take the same commands, without the first.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' sdcxr/__init__.py)
CACHE := $(or $(SDCXR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sdcxr)/$(VERSION)
RAW := $(CACHE)/phantom
DATASET := $(CACHE)/phantom-dataset
LAUNCH := accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
FINDINGS := Cardiomegaly,Right Effusion,Left Effusion,Right Pneumothorax,Left Pneumothorax

demo: export PATH := $(abspath $(BIN)):$(PATH)
demo: setup
	python -m data_prep.phantom --output_dir $(RAW)
	python -m data_prep.mimic_cxr --images $(RAW) --reports $(RAW)/mimic-cxr-reports.zip --output_dir $(DATASET) \
	    --views PA,AP --resolution 128
	$(LAUNCH) train.py --config configs/demo.yaml --data $(DATASET) --output_dir demo/run
	$(LAUNCH) generate.py --model demo/run --prompts $(DATASET)/test --output_dir demo/samples \
	    --num_images_per_prompt 1 --num_inference_steps 20 --scheduler dpm++ --guidance_scale 4 --batch_size 32
	python train.py --config configs/demo-classifier.yaml --data $(DATASET) --labels $(RAW)/phantom-truth.csv \
	    --output_dir demo/classifier
	python -m eval.classifier --classifier demo/classifier --real $(DATASET)/test --synthetic demo/samples \
	    --labels $(RAW)/phantom-truth.csv --findings "$(FINDINGS)" --output demo/scores.json
	python -m eval.montage --real $(DATASET)/test --synthetic demo/samples --output demo/montage.png
	python train.py --config configs/demo-clip.yaml --data $(DATASET) --output_dir demo/clip
	python -m eval --real $(DATASET)/test --synthetic demo/samples --train $(DATASET)/train \
	    --classifier demo/classifier --labels $(RAW)/phantom-truth.csv --findings "$(FINDINGS)" \
	    --image_text_model demo/clip --model demo/run --output_dir demo/eval

QUICK := not slow and not multiprocess and not external

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "$(QUICK)"

# Everything, the quick tests first; coverage is of both runs.
test-all: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "$(QUICK)" --cov --cov-report=
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not ($(QUICK))" --cov --cov-append --cov-report=term:skip-covered --cov-fail-under=90

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

wheel: setup
	.ci/wheel $(BIN)/python

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build .pytest_cache .mypy_cache .ruff_cache

# `make demo` shows the main job on a fresh machine; `make test` runs the whole suite. Neither needs a GPU.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint bench readme gallery wheel clean

demo: $(VENV)/.core
	$(BIN)/attncast predict -g b200,h100 -i 30x48x80 -n 24 -d 128 --dtype fp16 \
	  -p "na window=18x24x24 stride=16x8x8" --attention-share 0.607 --sparse-share 0.70

test: $(VENV)/.all
	$(BIN)/python -m pytest

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.core
	$(BIN)/python benchmarks/speed.py

# Runs the commands whose output README.md shows; the timings with `make readme TIMING=--timing`.
readme: $(VENV)/.all
	$(BIN)/python benchmarks/readme.py $(TIMING)

# The pages and pictures of reports/gallery: half a minute.
gallery: $(VENV)/.all
	$(BIN)/python benchmarks/gallery.py

wheel: $(VENV)/.all
	$(BIN)/python -m build --wheel

# The core alone: numpy, click and rich.
$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# Everything the suite uses; the CPU build of torch is enough.
$(VENV)/.all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch triton
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build dist *.egg-info

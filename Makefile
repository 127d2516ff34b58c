# Needs: make, a CPython 3.11 to 3.14 with venv, and whatever index pip is configured with.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test test-corpora test-gpu test-kernels fault fuzz test-ceph image-check check lock clean

# The first that works and is of a version the lock was made for.
IS_LOCKED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for candidate in python3 python3.13 python3.14 python3.12 python3.11; do \
	"$$candidate" -c '$(IS_LOCKED)' 2>/dev/null && { command -v "$$candidate"; break; }; done)
# Without a GPU, CUDA's several GB of libraries would be of no use.
TORCH ?= $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
# Where pip also looks for torch; for the CPU build on Linux, if pip's own indexes do not have it.
TORCH_INDEX ?=

# Else each process, and a test starts many, would compile the whole project anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(TORCH)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18
	@echo; echo "PYTHON=$(PYTHON)  TORCH=$(TORCH)  TORCH_INDEX=$(TORCH_INDEX)"

env: $(READY)  ## .venv with the locked versions (variables: PYTHON, TORCH=cpu|gpu, TORCH_INDEX)

# Torch comes first, so that a missing build is told before a minute of other downloads.
# Its GPU lock is complete and the CPU build needs only what is in test.txt: --no-deps everywhere.
$(READY): pyproject.toml requirements/test.txt requirements/torch-$(TORCH).txt
	@test -n "$(PYTHON)" || { echo "make: found no CPython 3.11 to 3.14 with venv;" \
		"install one (on Debian also python3-venv), or name it: make env PYTHON=/path/to/python" >&2; exit 2; }
	@echo "$(VENV): $$($(PYTHON) --version) ($(PYTHON)), torch for $(TORCH); a few minutes the first time"
	@"$(PYTHON)" -m venv $(VENV)
	@rm -f $(VENV)/.ready-*
	@$(PIP) --no-deps $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") -r requirements/torch-$(TORCH).txt \
		|| { echo "make: requirements/torch-$(TORCH).txt could not be installed for $$($(PYTHON) --version)." \
		"If pip found no such version: the CPU build for Linux is on an index of its own, which PyTorch's" \
		"install page (pytorch.org) names; run make $(or $(MAKECMDGOALS),env) TORCH_INDEX=<that index>," \
		"or make $(or $(MAKECMDGOALS),env) TORCH=gpu for the default build with CUDA (several GB)," \
		"or PYTHON=... if another Python has a build." >&2; exit 2; }
	@$(PIP) --no-deps -r requirements/test.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## the main job over the sample images and PDF, on the demo checkpoint
	$(BIN)/dsvl run configs/demo.yaml
	$(BIN)/dsvl report out/demo out/demo.html

# Three processes: on two cores, two of them would wait for Ray a quarter of their time.
test: $(READY)  ## all tests that need no GPU, Ray and S3 included
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m "not gpu and not corpora"

test-corpora: $(READY)  ## bad files of other projects' tests through whole runs (70 MB once, minutes)
	$(BIN)/python -m pytest -m corpora tests/input

test-gpu: $(READY)  ## all tests that need a GPU
	$(BIN)/python -m pytest -m gpu tests -s

# Triton's interpreter runs kernels on a CPU, with NumPy below 2.4: an environment of its own.
KERNELS := .venv-kernels
test-kernels: requirements/torch-cpu.txt  ## the GPU kernels on a CPU, in Triton's interpreter (a few minutes)
	@test -d $(KERNELS) || "$(PYTHON)" -m venv $(KERNELS)
	@$(KERNELS)/bin/python -m pip --disable-pip-version-check --quiet install $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") \
		-r requirements/torch-cpu.txt "triton==3.6.*" "numpy<2.4" pytest hypothesis
	TRITON_INTERPRET=1 $(KERNELS)/bin/python -m pytest --noconftest -q \
		tests/ops/test_attention_kernels.py tests/ops/test_image_attention_kernels.py tests/ops/test_sampling_kernels.py tests/gpu/test_kernels_elementwise.py

# One seed gives one run; each draws another fault. RUNS=20 SEED=7 make fault
RUNS ?= 200
fault: $(READY)  ## runs with random faults, rows counted after each (variables: RUNS, MINUTES, SEED)
	$(BIN)/python -m tests.fault --runs $(RUNS) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

# FUZZ="--images 100000 --seed 7" make fuzz
fuzz: $(READY)  ## 23,000 damaged pictures, PDFs and manifests through the CPU stages (a quarter of an hour; variable: FUZZ)
	$(BIN)/python -m tests.fuzz $(FUZZ)

test-ceph: $(READY)  ## what touches S3, the short fault campaign too, on a real Ceph (needs its Debian packages)
	tests/ceph.sh $(BIN)/python -m pytest -m s3

# Debian's debootstrap and root; apt and pip fetch what Docker would.
image-check:  ## the Dockerfile's CPU target without Docker: its steps in a chroot, then a job in it (minutes)
	"$(PYTHON)" tools/image_check.py $(if $(TORCH_INDEX),--build-arg TORCH_INDEX="$(TORCH_INDEX)")

check: $(READY)  ## format, lint, types, documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tools.check_docs
	$(BIN)/python -m tools.check_snippets

# Markers choose per Python and platform, so one file serves all of them.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock"
lock:  ## newest versions into requirements/ (needs uv)
	$(COMPILE) pyproject.toml --extra test --constraint requirements/torch.in --upgrade \
		--excludes requirements/no-cuda.txt --no-emit-package torch -o requirements/test.txt
	$(COMPILE) pyproject.toml --extra kubernetes --extra model --constraint requirements/torch.in --upgrade \
		--constraint requirements/test.txt \
		--excludes requirements/no-cuda.txt --no-emit-package torch -o requirements/base.txt
	$(COMPILE) requirements/torch.in --upgrade --constraint requirements/test.txt \
		-o requirements/torch-gpu.txt

clean:  ## remove the environment, caches and out/
	rm -rf $(VENV) $(KERNELS) out build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

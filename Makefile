# Mini-MoE. `make lab` opens the course, `make test` checks everything. Packages go into .venv.

PYTHON  ?= python3
PORT    ?= 8888
WORKERS ?= 2
NB      ?=
OUT     ?= tests/benchmarks/results

FIRST_LESSON := notebooks/00_tour.ipynb

VENV := .venv
PY   := $(VENV)/bin/python
# One thread per process when several processes share the cores.
SHARED_CORES := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# A cross-compiling clang from PyPI; not in .venv, since it takes 400 MB.
ZIG_VERSION := 0.17.1
ZIG := build/zig-$(ZIG_VERSION)

# What the environment was built from; any change triggers a new installation.
INSTALLED := $(VENV)/.installed
FINGERPRINT = { cat requirements.txt pyproject.toml; pwd; } | cksum

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test notebooks bench bench-gpu kernels clean venv corpus lint unit nbval browser
.PHONY: cross sanitize

help:  ## Show this list of commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

lab: venv corpus  ## Start the course in JupyterLab; installs everything it needs (PORT=8888)
	@$(PY) kernels/build.py || echo "The course works without them; \`make kernels\` tries again."
	@running=$$($(PY) -m jupyter_server list 2>/dev/null \
	  | awk -F ' :: ' -v here="$(CURDIR)" '$$2 == here { print $$1; exit }'); \
	if [ -n "$$running" ]; then echo "JupyterLab is already running: $$running"; exit 0; fi; \
	$(PY) -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null || { \
	  echo "Port $(PORT) is in use. Choose another one: make lab PORT=$$(($(PORT) + 1))" >&2; exit 1; }; \
	if [ "$$(id -u)" -eq 0 ]; then root=--allow-root; fi; \
	exec $(PY) -m jupyterlab --ip=127.0.0.1 --port=$(PORT) --ServerApp.port_retries=0 $$root \
	  --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/$(FIRST_LESSON)

test: venv kernels corpus lint unit nbval browser  ## Run all checks: lint, unit tests, notebooks, browser
	@echo "make test: all stages passed"

notebooks: venv corpus  ## Run the notebooks and store their outputs (only one: NB=03_experts)
	$(PY) -m tests.notebooks.store_outputs $(NB)

bench: venv corpus  ## Compare the speed with other implementations
	$(PY) tests/benchmarks/run.py

# Installs nothing: a GPU machine may lack a network but already have a Python with torch for CUDA.
bench-gpu:  ## Build, check and time the CUDA kernels (needs an NVIDIA GPU, nvcc; OUT=folder)
	$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m tests.benchmarks.gpu --out "$(OUT)"

kernels: venv  ## Compile the fast kernels (optional; needs a C++ compiler)
	@$(PY) kernels/build.py

cross: venv  ## Compile the CPU kernels for ARM and macOS as a check (installs clang)
	@test -d $(ZIG)/ziglang || $(PY) -m pip install --disable-pip-version-check -q \
	  --target $(ZIG) ziglang==$(ZIG_VERSION)
	$(PY) -m tests.kernels.builds.cross $(ZIG)

sanitize: venv  ## Test the CPU kernels with AddressSanitizer and UBSan (needs g++)
	$(PY) -m tests.kernels.builds.sanitize

clean:  ## Delete the environment, caches and built files (keeps notebooks and checkpoints)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis data/corpus
	rm -rf tests/browser/failures mini_moe/_C.abi3.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------- the stages

venv:
	@if [ "$$(cat $(INSTALLED) 2>/dev/null)" != "$$($(FINGERPRINT))" ] \
	  || ! $(PY) -c '' 2>/dev/null; then $(MAKE) --no-print-directory $(INSTALLED); fi

.PHONY: $(INSTALLED)
$(INSTALLED):
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Mini-MoE needs Python 3.11 or newer, but '$(PYTHON)' was not found." \
	    "Install it (Debian, Ubuntu: apt install python3 python3-venv)," \
	    "or point to yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Mini-MoE needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	    "Install a newer one and point to it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python can't create environments: the venv module is missing." \
	    "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  echo "Creating an environment in $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing the packages in requirements.txt (takes a few minutes the first time)"
	@$(PY) -m pip install --disable-pip-version-check -r requirements.txt || { \
	  echo "The packages could not be installed; see pip's message above." \
	    "If it mentions connections, this machine may be offline:" \
	    "connect it and run make again" >&2; exit 1; }
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@cp tests/browser/overrides.json $(VENV)/share/jupyter/lab/settings/overrides.json
	@$(FINGERPRINT) > $(INSTALLED)

corpus:
	@$(PY) -m mini_moe.text

lint:
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

# Hypothesis' built-in profile that draws the same examples every time, on every machine.
SAME_EXAMPLES = --hypothesis-profile=ci

unit:
	$(SHARED_CORES) $(PY) -m pytest tests --ignore=tests/browser -m "not compile" -q \
	  -n $(WORKERS) --jaxtyping-packages=mini_moe,beartype.beartype $(SAME_EXAMPLES)
	$(SHARED_CORES) $(PY) -m pytest tests --ignore=tests/browser -m compile -q $(SAME_EXAMPLES)

# Lessons are sized for two cores; here they share them, hence the generous time limit.
nbval:
	$(SHARED_CORES) $(PY) -m pytest notebooks -q -n $(WORKERS) --dist loadfile \
	  -p tests.notebooks.timeouts --nbval-lax --nbval-current-env --nbval-cell-timeout 300

browser:
	$(PY) -m pytest tests/browser -q

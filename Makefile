#   make demo    install into .venv and train a small network on handwritten digits
#   make test    install with the test tools and run all tests
#   make docs    install into .venv with Sphinx and build the documentation; says where its first page is
#   make bench   measure the solver
#   make gpu     check and measure on a GPU, in MINUTES=8, into RESULTS=folder; needs only python3, torch and triton
#   make mpich   the tests of several ranks again, under MPICH instead of Open MPI
#   make clean   remove .venv and everything built
# PYTHON=python3.12 chooses the interpreter that .venv is made with (3.11 or newer).
# Paths are relative, and tools run as `python -m`, so that the checkout may lie in a folder with a space in its name.

PYTHON ?= python3
PY := .venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.NOTPARALLEL:

# An editable install remembers where the checkout lies: after a move, or without a working .venv, install again.
ifneq ($(shell [ -x $(PY) ] && cat .venv/.where 2>/dev/null),$(CURDIR))
STALE := stale
endif

.PHONY: help demo test docs bench gpu mpich clean stale
help:
	@sed -n 's/^#   //p' Makefile

demo: .venv/.installed-demo
	@$(PY) -m lpgpu.cli train digits

test: .venv/.installed-test
	@$(PY) -m tests.session

# Warnings are errors: a link that leads nowhere, a public name that is gone.
docs: .venv/.installed-docs
	@$(PY) -m sphinx -q -W --keep-going -b html -d build/docs/doctrees docs build/docs/html
	@echo "build/docs/html/index.html"

# A CPU has no caching allocator: without these glibc settings both sides of a comparison pay for fresh pages at each call.
bench: export MALLOC_MMAP_THRESHOLD_ := 8589934592
bench: export MALLOC_TRIM_THRESHOLD_ := 8589934592
bench: .venv/.installed-demo
	@$(PY) bench/solver.py

# From the tree, with what is there: nothing is installed, and nothing that fails ends it (bench/gpu.py).
MINUTES ?= 8
RESULTS ?= bench/results/gpu
gpu:
	@$(PYTHON) bench/gpu.py --minutes $(MINUTES) --results "$(RESULTS)"

# a second environment with another MPI; all else comes from the first
MPICH := .venv/mpich/bin/python
mpich: .venv/.installed-test
	@[ -x $(MPICH) ] || $(PY) -m venv .venv/mpich
	@$(MPICH) -m pip install -q -c constraints.txt mpich mpi4py
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	> "$$($(MPICH) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth"
	@$(MPICH) -m pytest tests/test_on_ranks.py tests/comm/test_faults.py -k 'mpiexec and (2 or 3 or faults)'

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra, written only after its install has succeeded.
.venv/.installed-%: pyproject.toml constraints.txt CMakeLists.txt $(STALE)
	@rm -f $@
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lpgpu needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear .venv || \
	  { echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }; }
	@echo "Installing lpgpu[$*] into .venv (minutes the first time)"
	@$(PY) -m pip install -q -c constraints.txt -e ".[$*]"
	@pwd -P > .venv/.where
	@touch $@

# Two commands do everything: `make sweep` runs a first sweep, `make test` runs the tests. Both set up what they need.

UV_VERSION := 0.13.9
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Tests start many processes: each would compile this code anew where an environment forbids to keep the bytecode.
unexport PYTHONDONTWRITEBYTECODE

# Tests that start no servers and no Ray run side by side; each computes with one thread.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 pytest -n auto
FAST_TESTS := $(SIDE_BY_SIDE) -m "not slow and not soak"

.PHONY: setup sweep check test soak lock clean

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml Makefile
	@python=$$(for p in "$(PYTHON)" python3 python3.12 python3.11; do \
		$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done); \
	if [ -z "$$python" ]; then echo "Python 3.11 or 3.12 is needed; name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	test -x $(BIN)/python || $$python -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

# A sweep over the embedded data: a result to look at, in minutes.
sweep: setup
	@sweeps run quickstart

# Lint, types, fast tests: under a minute.
check: setup
	ruff check .
	ruff format --check .
	mypy
	$(FAST_TESTS)

# All tests but the soak: under ten minutes on two cores.
test: setup
	ruff check .
	ruff format --check .
	mypy
	$(FAST_TESTS)
	$(SIDE_BY_SIDE) --dist loadfile --no-loadscope-reorder -m "slow and not soak" \
		tests/cluster tests/sweeps tests/senet tests/test_structure.py

# Chaos, fuzzing, whole sweeps, long goldens: under 70 minutes.
soak: setup
	$(SIDE_BY_SIDE) -x --dist loadfile -m soak tests/cluster tests/soak tests/sweeps \
		--ignore tests/soak/test_quickstart.py --ignore tests/soak/test_compile.py \
		--ignore tests/sweeps/test_simulator.py
	$(SIDE_BY_SIDE) -x -m soak tests/sweeps/test_simulator.py tests/senet tests/soak/test_compile.py
	pytest -x -m soak tests/soak/test_quickstart.py

# A new lock file: names, versions and platform markers, no addresses.
lock: setup
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --upgrade --quiet -o requirements.lock

clean:
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache *.egg-info

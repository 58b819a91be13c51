# The two commands of a newcomer are `make demo` and `make test`; both create .venv if it is missing.
PYTHON ?= python3.11
BIN := .venv/bin
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Each process has a run of neighbours, which share what they need, until another one is idle.
SIDE_BY_SIDE := -n 2 --dist worksteal

.PHONY: demo test test-slow bench docs check format lock clean

demo: $(BIN)/ready ## zero-shot CLIP and CALIP on handwritten digits, offline
	$(BIN)/python -m src.run +experiment=demo

test: $(BIN)/ready ## all tests but the slow ones
	$(ONE_THREAD) $(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-slow: $(BIN)/ready ## every recipe in miniature, the launchers, a training
	$(ONE_THREAD) $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

# A missed target still gets into the manual.
bench: $(BIN)/ready ## every benchmark beside a plain implementation; the manual's page on speed
	$(BIN)/python -m benchmarks; status=$$?; $(BIN)/python -m docs.generate; exit $$status

docs: $(BIN)/ready ## the manual, in build/docs; a link that leads nowhere is an error
	$(BIN)/python -m docs.generate
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky --fresh-env docs build/docs
	@echo build/docs/index.html

check: $(BIN)/ready ## lint, format, types, layers, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell README.md docs src conf experiments benchmarks

format: $(BIN)/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(BIN)/ready: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	touch $@

# torch pins its own CUDA packages, on Linux only: leaving them to it keeps the lock portable.
# The extra [ray] is left out, because it wants older packages than the others.
EXTRAS := demo dev docs export hub siglip
lock: $(BIN)/ready ## pin again what pyproject.toml allows
	$(BIN)/pip-compile --quiet $(EXTRAS:%=--extra %) --strip-extras --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --no-annotate --no-header --allow-unsafe \
		--output-file requirements.all pyproject.toml
	echo '# The exact versions that CI runs with; `make lock` makes this file.' > requirements.lock
	grep -vE '^(nvidia-|cuda-|triton)' requirements.all >> requirements.lock
	rm requirements.all

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

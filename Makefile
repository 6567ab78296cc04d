# Everything runs in .venv, which `make setup` makes; each target works alone on a fresh machine.
# With uv instead of pip: `uv venv .venv && uv pip install --python .venv -e ".[dev]" && touch .venv/core.stamp .venv/dev.stamp`

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test test-rest test-all quick compat families pages coverage wheel bench lint format docs browser clean

help:
	@echo "make setup    .venv with everything that development needs"
	@echo "make demo     ablate every layer of a 30-layer model; writes runs/demo/report.html"
	@echo "make test     the tests, without the slow ones (installs Chromium where it is missing)"
	@echo "make test-all all tests"
	@echo "make quick    tests of most steps of the study, in about two minutes: for every commit"
	@echo "make coverage all tests, and which lines and branches they do not reach"
	@echo "make wheel    build the wheel; install and use it under each of PYTHONS='python3.11 ...'"
	@echo "make bench    time a sweep against other loops; writes runs/bench/performance.md"
	@echo "make lint     ruff and mypy"
	@echo "make format   let ruff put the code in order"
	@echo "make compat   the floor and the newest transformers: models, engine, real model"
	@echo "make families the documentation's table of model families"
	@echo "make pages    the pages that are made of the code: index, options, stored names"
	@echo "make docs     the documentation, in site/"
	@echo "make clean    remove what the tools leave behind; runs/ and .venv stay"

setup: .venv/dev.stamp

# Some container images set PYTHONDONTWRITEBYTECODE: each process then compiles 6,000 files (9 s).
unexport PYTHONDONTWRITEBYTECODE

# --no-compile: Python compiles what is imported; the rest is never compiled.
INSTALL := $(BIN)/python -m pip install --no-compile --editable

.venv/core.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "layerroles needs Python 3.11 or newer: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot make virtual environments: on Debian, apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) .
	@touch $@

.venv/dev.stamp: .venv/core.stamp
	$(INSTALL) '.[dev]'
	@touch $@

.venv/docs.stamp: .venv/dev.stamp
	$(INSTALL) '.[docs]'
	@touch $@

.venv/bench.stamp: .venv/dev.stamp
	$(INSTALL) '.[bench]'
	@touch $@

demo: .venv/core.stamp
	$(BIN)/python experiments/demo.py

# What `make test` leaves out, by the reason why: the markers of pyproject.toml.
SLOW := browser or devices or experiments or matrix or package or pages or ray or real or truth
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
test: setup browser
	$(PYTEST) --durations 20 -m "not ($(SLOW))"

test-rest: setup browser
	$(PYTEST) -m "$(SLOW)"

test-all: setup browser
	$(PYTEST)

# A file or two for most steps of the study, in two minutes.
QUICK := test_layering.py test_names.py test_sites.py ablations/test_condition_hashes.py \
	engine/planning/test_planning.py engine/fused/test_partial_attention.py engine/fused/test_kv_buffer.py \
	engine/fused/test_readout.py tasks/test_grading.py tasks/test_local.py tasks/test_frozen_questions.py \
	protocols/test_likelihood.py probes/test_decision.py stats/test_stats.py results/test_results.py \
	results/test_cross_task_questions.py sweep/test_missing_work.py sweep/test_status.py roles/test_agreement_with_probes.py \
	figures/test_direct_against_total.py page/test_first_screen.py cli/test_parsing.py
quick: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -q $(addprefix tests/unit/,$(QUICK))

# The floor, the version before the cache was renamed, and the newest; each lies over .venv.
VERSIONS ?= ==5.16.1 ==5.23.0 ">=5.24"
COMPAT := unit/models unit/engine/fused/test_exact_answers.py integration/test_smollm2.py
compat: setup
	@for version in $(VERSIONS); do \
		folder=$$(mktemp -d) && echo "transformers$$version in $$folder" && \
		$(BIN)/python -m pip install -q --no-compile --target $$folder "transformers$$version" && \
		PYTHONPATH=$$folder $(BIN)/python -m pytest -n auto --maxprocesses 4 -q \
			$(addprefix tests/,$(COMPAT)) $(addprefix tests/unit/,$(QUICK)); \
		status=$$?; rm -rf $$folder; [ $$status = 0 ] || exit 1; \
	done

families: setup
	$(BIN)/python -W ignore -m tests.support.families

pages: setup
	$(BIN)/python -m tests.support.pages

coverage: setup browser
	$(PYTEST) --cov --cov-report=term

# In an empty environment each, away from this folder: what is not declared is missing there.
PYTHONS ?= $(PYTHON)
wheel: setup
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	@for python in $(PYTHONS); do \
		folder=$$(mktemp -d) && echo "$$python in $$folder" && $$python -m venv $$folder/env && \
		$$folder/env/bin/python -m pip install -q --no-compile dist/*.whl && \
		$$folder/env/bin/python -m pip check && cp tests/integration/first_use.py $$folder && \
		(cd $$folder && env/bin/python -W error -c "import layerroles" && \
			env/bin/python first_use.py "$$folder" && env/bin/layerroles --help >/dev/null) && \
		rm -rf $$folder || exit 1; \
	done

# The package's own tasks, or REQUESTS=FOLDER of request files, or DATA=FOLDER of benchmarks of which
# benchmarks/workloads.py makes them: the documentation's page. BENCH='--heads NAME' times more.
REQUESTS ?= $(if $(DATA),runs/bench/requests)
bench: ASKED := $(if $(REQUESTS),--requests $(REQUESTS))
bench: KEPT := runs/bench$(if $(REQUESTS),,/own)
bench: PAGE := $(if $(REQUESTS),docs/results,runs/bench)/performance.md
bench: .venv/bench.stamp
	$(if $(DATA),$(BIN)/python benchmarks/workloads.py --data $(DATA) --out $(REQUESTS))
	$(BIN)/python benchmarks/growth.py --out $(KEPT)
	$(BIN)/python benchmarks/shares.py $(ASKED) --out $(KEPT)
	$(BIN)/python benchmarks/speed.py $(ASKED) --kept $(KEPT) --out $(PAGE) $(BENCH)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The report is tested in headless Chromium.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "The report's test needs 'chromium' and 'chromedriver' on the PATH: install them, then run make test again."; \
		exit 1; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; \
	elif command -v sudo >/dev/null; then as_root=sudo; \
	else \
		echo "The report's test needs Chromium. As root: apt-get update && apt-get install chromium chromium-driver"; \
		exit 1; \
	fi; \
	echo "Installing Chromium and its driver for the report's test"; \
	$$as_root apt-get update -q && \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium chromium-driver

clean:
	rm -rf build dist site .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find layerroles tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

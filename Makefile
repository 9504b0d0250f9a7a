# `make up`: a cluster on this machine. `make test`: every test. `make chaos`: every fault, under load.
# `make bench`: the gateway beside its peers. `make docs`: the pages of docs/ as a site, in build/docs.
# Each installs what it needs into .venv.
PYTHON ?= python3
LISTEN ?=
STATE ?=
ARGS ?=
PYTEST_ARGS ?=

up_flags = $(if $(LISTEN),--listen $(LISTEN)) $(if $(STATE),--state $(STATE)) $(ARGS)

.PHONY: up test chaos bench docs release audit install install-test system-test-packages lint lock

up: install
	@exec .venv/bin/ollamactl up $(up_flags)

install: .venv/.installed

.venv/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; this needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make up PYTHON=python3.12" >&2; exit 1; }
	@echo "creating .venv …"
	@$(PYTHON) -m venv .venv || { echo "no venv module: apt-get install python3-venv" >&2; rm -rf .venv; exit 1; }
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt

.venv/.installed: .venv/bin/uv requirements.txt pyproject.toml
	@echo "installing (about 350 MB, some ten seconds on a fast line) …"
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.txt
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
	@touch $@

install-test: .venv/.installed-test

.venv/.installed-test: .venv/.installed requirements-test.txt
	@echo "installing what the tests need …"
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements-test.txt
	@touch $@

# Real parts that only the system's package manager has. Without root they are left out, and their tests say so.
system-test-packages:
	@tests/system_packages.sh

test: install-test system-test-packages
	@.venv/bin/python -m pytest $(PYTEST_ARGS)

# Every fault there is, one after another, under load (some fifteen minutes); ARGS="--only redis" for a part of them,
# ARGS="--keep" writes what was measured into docs/faults.md. A real engine takes part where one is found (`ollama` with
# smollm2:135m, otherwise the built-in one), unless OLM_CHAOS_ENGINE=none. Its short form is in `make test`.
chaos: install-test system-test-packages
	@.venv/bin/python -m tests.chaos $(ARGS)

# ARGS="--only A --contenders nginx,ours" for a part of it; benchmarks/gateway/README.md says what there is.
bench: install-test
	@tests/system_packages.sh haproxy
	@.venv/bin/python -m benchmarks.gateway $(ARGS)

# The theme says at each build that a successor is there; it is kept for as long as it is looked after.
docs: install-test
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml && echo build/docs/index.html

# What is released, in build/dist: the wheel, byte for byte the same from the same commit wherever it is built, and what
# is in it and under it (CycloneDX), with the digests that an installation holds its packages to.
release: install-test
	@rm -rf build/dist && mkdir -p build/dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) .venv/bin/python -m flit_core.wheel --outdir build/dist >/dev/null
	@.venv/bin/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible --of JSON -o build/dist/sbom.cdx.json 2>/dev/null
	@cd build/dist && sha256sum * >SHA256SUMS && cat SHA256SUMS

# Known weaknesses of the packages underneath (asks pypi.org), and of the code (each exception stands in pyproject.toml).
audit: install-test
	@.venv/bin/bandit --quiet --recursive --configfile pyproject.toml orchestrator
	@.venv/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.txt

# Versions stay as they are, unless pyproject.toml asks for others; with ARGS=--upgrade the newest.
lock: .venv/bin/uv
	@.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header $(ARGS) pyproject.toml --extra embedded --extra build -o requirements.txt
	@.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header $(ARGS) pyproject.toml --extra embedded --extra build --extra test --extra routing --extra release -c requirements.txt -o requirements-test.txt

lint: install-test
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

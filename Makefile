# Two commands do everything: `make demo` and `make test`. Both set up what they need first.
PY := .venv/bin/python
STAMP := .venv/.ready
PYTHON ?= python3
WORKERS ?= 2

.PHONY: demo test check fix bench pages docs lock proto setup clean

setup: $(STAMP)
$(STAMP): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	.venv/bin/uv pip sync -q --python $(PY) --compile-bytecode --require-hashes requirements/dev.txt
	.venv/bin/uv pip install -q --python $(PY) --no-deps -e .
	touch $(STAMP)

demo: setup
	$(PY) examples/flights/demo.py

# Two workers; the tests of one file stay together, for what they share.
test: setup
	$(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

fix: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup
	$(PY) -m benchmarks $(BENCH)

# Writes the pages that come from the code.
pages: setup
	$(PY) -m tools.architecture
	$(PY) -m tools.errors_page
	$(PY) -m tools.settings_page
	$(PY) -m retinue.loader.reference docs/reference

docs: pages
	$(PY) -m pytest -q tests/test_architecture.py tests/test_docs.py

lock: setup
	.venv/bin/uv pip compile -q --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" requirements/bootstrap.in -o requirements/bootstrap.txt
	.venv/bin/uv pip compile -q --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" --group dev pyproject.toml -o requirements/dev.txt

# Compiles the messages of the gRPC door.
proto: setup
	cd src/retinue/gateway/proto && ../../../../$(PY) -m grpc_tools.protoc -I. --descriptor_set_out=descriptors.bin open_inference.proto health.proto

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

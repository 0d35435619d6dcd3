# Everything is built once, in release, with one set of features: polars is what takes long.
PYTHON ?= python3
VENV   := .venv
BIN    := target/release/lpa
PY     := $(VENV)/bin/python

.PHONY: demo build uplot test test-rust test-python avx512-check check example example-candle frameworks smoke bench fixtures package wheel kernels \
        kernels-check gpu-check gpu-bundle torture fuzz fuzz-corpus fuzz-engine clean

demo: build
	$(BIN) analyze fixtures/digits_mlp --out target/demo.parquet

# Without npm, or without a network, all is built but the charts of lpa report.
build:
	@$(MAKE) --silent uplot 2> /dev/null || echo "lpa report is built without interactive charts: docs/report.md"
	cargo build --release --locked

# The charting file of lpa report, which build.rs takes from there.
UPLOT := report/node_modules/uplot/dist/uPlot.iife.min.js

uplot: $(UPLOT)

$(UPLOT): report/package-lock.json
	@command -v npm > /dev/null || { echo "there is no npm"; exit 1; }
	npm ci --prefix report --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-timeout=20000
	@touch $@

test: test-rust test-python

test-rust:
	cargo test --release --locked --lib --test suite
	cargo test --release --locked --doc

# One file's tests run in one process; one more than there are processors, since some wait. PyTorch's threads would only wait
# for each other.
TESTERS := $(shell n=$$(nproc); echo $$((n < 8 ? n + 1 : 8)))

test-python: build $(VENV)/module
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TESTERS) --dist loadfile --no-loadscope-reorder tests/python

# What the tests do in a short form, in full: every bit of small runs, every operation with a file, a million steps, and
# faults in the kernels. One to two hours.
torture:
	LPA_TORTURE=1 cargo test --release --locked --test suite -- flips:: faults:: long:: cuda::faults --nocapture

# Coverage-guided fuzzing of one target (fuzz/src/lib.rs) for some time: make fuzz TARGET=shard SECONDS=1200.
TARGET  ?= shard
SECONDS ?= 60

fuzz: fuzz-engine
	fuzz/run $(TARGET) $(SECONDS)

# The smallest inputs that take all ways which were found, for the tests.
fuzz-corpus: fuzz-engine
	fuzz/run $(TARGET) merge

# lpa itself is built again, to be watched; what it depends on is not.
fuzz-engine:
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/fuzz/instrument cargo build --release --locked --package lpa-fuzz --features libfuzzer \
	    --bin lpa-fuzz

# Where the processor has no AVX-512: in an emulated machine.
avx512-check: build
	tests/avx512/check.sh $(BIN) \
	    "$$(cargo test --release --locked --lib --no-run 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$$/\1/p')"

check: $(VENV)/ready
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --release --locked --no-deps \
	    --document-private-items --lib
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --workspace
	$(VENV)/bin/ruff check python fixtures tests benches examples kernels
	$(PY) tests/dependencies.py

# Six real trainings and what lpa says about each; on CIFAR-10 images where LPA_DATA has them.
example: $(VENV)/module
	rm -rf target/six_paths
	$(PY) examples/six_paths.py target/six_paths

# A training in candle, in a workspace of its own: what is recorded is compared with it, and what lpa says is shown.
CANDLE = --locked --manifest-path examples/candle/Cargo.toml --target-dir target/candle

example-candle:
	cargo fmt --check --manifest-path examples/candle/Cargo.toml
	cargo test $(CANDLE)
	rm -rf target/candle_run
	cargo run $(CANDLE) -- target/candle_run

# Frameworks that are too large for every run of the tests: Composer and DeepSpeed with the PyTorch that they ask for, candle.
FRAMEWORKS := target/frameworks-venv

frameworks: $(VENV)/module $(FRAMEWORKS)/ready example-candle
	PATH="$(CURDIR)/$(FRAMEWORKS)/bin:$$PATH" PYTHONPATH=python:tests/python \
	    $(FRAMEWORKS)/bin/python -m pytest -q tests/frameworks

$(FRAMEWORKS)/ready: tests/frameworks/requirements.txt
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/pip install --quiet --disable-pip-version-check -r $<
	# It asks at its installation for the PyTorch that is there; without operators of its own it needs no compiler.
	DS_BUILD_OPS=0 $(FRAMEWORKS)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation deepspeed==0.19.8
	touch $@

# The paper's four tasks, small: each trains, is recorded and analyzed.
SMOKE = "cifar10 --model resnet18" "cifar10 --model mlp" "imagenet" "wikitext2" "vaihingen --model unet" \
        "vaihingen --model segnet"

smoke: $(VENV)/module build
	set -e; for task in $(SMOKE); do \
	    rm -rf target/smoke; set -- $$task; name=$$1; shift; \
	    $(PY) examples/$$name.py --smoke --run target/smoke "$$@"; \
	    $(BIN) analyze target/smoke | tail -n 6; \
	done; rm -rf target/smoke

bench: $(VENV)/module build
	cargo bench --locked --bench stages
	$(PYTHON) benches/end_to_end.py $(BENCH)
	$(PY) benches/recorder.py target/bench_recorder

fixtures: $(VENV)/module
	rm -rf fixtures/digits_mlp fixtures/format
	$(PY) fixtures/digits_mlp.py fixtures/digits_mlp
	$(PY) fixtures/frozen.py fixtures/format

# What is packed compiles without the repository around it, what was built runs without it, and a program embeds the library
# without the command. What compiles is looked at and not made again, since lpa and polars take minutes each; the program is
# linked with the library that is there.
package: build
	# The charting file is packed, and is no file of the repository.
	cargo package --locked --no-verify --allow-dirty
	set -e; crate=$$(mktemp -d); tar xzf target/package/lpa-*.crate -C $$crate; cp $(BIN) $$crate; \
	    (cd $$crate/lpa-*; cargo check --release --locked --target-dir $(CURDIR)/target); \
	    (cd $$crate; ./lpa analyze $(CURDIR)/fixtures/digits_mlp --out table.parquet); \
	    cargo check --release --locked --package lpa-embed; \
	    rustc --edition=2024 examples/embed/src/main.rs --extern lpa=target/release/liblpa.rlib \
	        -L dependency=target/release/deps -o $$crate/embed; \
	    $$crate/embed $$crate/run; rm -rf $$crate

# The GPU's machine code is made from kernels/*.cu by one pinned compiler, without a GPU or a toolkit.
KERNELS := target/kernels-venv

kernels: $(KERNELS)/ready
	$(KERNELS)/bin/python kernels/build.py
	$(KERNELS)/bin/python kernels/inspect_ptx.py

kernels-check: $(KERNELS)/ready
	$(KERNELS)/bin/python kernels/build.py --check
	$(KERNELS)/bin/python kernels/inspect_ptx.py --check

# On a machine with an NVIDIA GPU; needs neither network nor Rust where dist/lpa-gpu is.
gpu-check:
	sh kernels/gpu-check.sh

# What gpu-check needs, in one folder: to be copied to a machine with a GPU.
gpu-bundle: build
	rm -rf dist/lpa-gpu
	mkdir -p dist/lpa-gpu
	strip -o dist/lpa-gpu/lpa $(BIN)
	cp kernels/gpu-check.sh kernels/torch_formulas.py dist/lpa-gpu/
	du -sh dist/lpa-gpu

$(KERNELS)/ready: kernels/requirements.txt
	$(PYTHON) -m venv $(KERNELS)
	$(KERNELS)/bin/pip install --quiet --disable-pip-version-check --no-deps -r kernels/requirements.txt
	touch $@

wheel: $(VENV)/ready $(UPLOT)
	$(VENV)/bin/maturin build --release --locked -m python/Cargo.toml --out dist

$(VENV)/ready: tests/python/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
	touch $@

# The module is installed in place; cargo decides what there is to build.
$(VENV)/module: $(VENV)/ready FORCE
	$(VENV)/bin/maturin develop --quiet --release --locked -m python/Cargo.toml

FORCE:

clean:
	rm -rf target $(VENV) dist

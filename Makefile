# Run `make` or `make help` for the list of targets. One profile, release, everywhere: nothing is built twice.
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz check-cuda build check lint fmt doc clean

CARGO ?= cargo
# Folder of the demo's run, and more options: make demo ARGS="--backend wgpu", make check-cuda ARGS=--bless
OUTPUT ?= runs/demo
ARGS ?=
# What make fuzz looks at, and for how long
TARGET ?=
SECONDS ?= 60

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Install the system packages that are missing (Debian, Ubuntu; names them elsewhere)
	@.ci/setup.sh

demo: setup ## Build, then train and score a small model on synthetic narrated clips
	$(CARGO) build --release --locked --bin avion
	$(CARGO) run --release --locked --quiet --bin avion -- demo --output "$(OUTPUT)" $(ARGS)
	@echo "Report: $(abspath $(OUTPUT))/report.html"

test: setup ## Run every test that needs no special hardware (those of emulated CUDA: make check-cuda)
	$(CARGO) test --release --locked --workspace --exclude cuda-check --exclude avion-fuzz

fuzz: setup ## Look for crashes of one reader, guided by coverage: make fuzz TARGET=manifest SECONDS=60
	@test -f "tools/fuzz/fuzz_targets/$(TARGET).rs" || \
		{ echo "TARGET is one of:" $(basename $(notdir $(wildcard tools/fuzz/fuzz_targets/*.rs))) >&2; exit 1; }
	RUSTC_WORKSPACE_WRAPPER="$(CURDIR)/tools/fuzz/rustc.sh" \
		$(CARGO) build --release --locked -p avion-fuzz --features libfuzzer --bin fuzz_$(TARGET)
	@mkdir -p tools/fuzz/corpus/$(TARGET) tools/fuzz/artifacts/$(TARGET)
	@# Many small files are written: in memory, where there is such a place.
	TMPDIR="$${TMPDIR:-$$(test -w /dev/shm && echo /dev/shm || echo /tmp)}" \
		AVION_FUZZ_CORPUS=tools/fuzz/corpus/$(TARGET) "$${CARGO_TARGET_DIR:-target}/release/fuzz_$(TARGET)" \
		tools/fuzz/corpus/$(TARGET) -artifact_prefix=tools/fuzz/artifacts/$(TARGET)/ -max_total_time=$(SECONDS) \
		-timeout=20 -rss_limit_mb=4096 -max_len=409600 -print_final_stats=1 $(ARGS)

check-cuda: ## Without a GPU: run the CUDA kernels on an emulator, hold their registers against kernels/cuda-budget.toml
	@.ci/setup.sh pip
	$(CARGO) test --release --locked --workspace --test emulated --test emulated_hopper
	"$${CARGO_TARGET_DIR:-target}/release/cuda-check" "$$(.ci/cuda-wheels.sh)" $(ARGS)

build: setup ## Build the program: target/release/avion
	$(CARGO) build --release --locked --bin avion

check: setup ## Check that everything compiles, tests included
	$(CARGO) check --release --locked --workspace --all-targets

lint: setup ## Check the formatting and run clippy
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
		{ echo "rustfmt or clippy is missing: rustup component add rustfmt clippy" >&2; exit 1; }
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --release --locked --workspace --all-targets --test on_cuda --test model_on_cuda \
		-- -D warnings

fmt: ## Format the code
	$(CARGO) fmt --all

doc: setup ## Build the documentation: target/doc/avion/index.html
	$(CARGO) doc --release --locked --workspace --no-deps

clean: ## Remove what was built; runs/ stays
	$(CARGO) clean

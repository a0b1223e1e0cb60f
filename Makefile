# Run `make` or `make help` for the list of targets. One profile, release, everywhere: nothing is built twice.
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo test check-cuda build check lint fmt doc clean

CARGO ?= cargo
# Folder of the demo's run, and more options: make demo ARGS="--backend wgpu", make check-cuda ARGS=--bless
OUTPUT ?= runs/demo
ARGS ?=

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Install the system packages that are missing (Debian, Ubuntu; names them elsewhere)
	@.ci/setup.sh

demo: setup ## Build, then train and score a small model on synthetic narrated clips
	$(CARGO) build --release --locked --bin avion
	$(CARGO) run --release --locked --quiet --bin avion -- demo --output "$(OUTPUT)" $(ARGS)
	@echo "Report: $(abspath $(OUTPUT))/report.html"

test: setup ## Run every test that needs no special hardware (those of emulated CUDA: make check-cuda)
	$(CARGO) test --release --locked --workspace --exclude cuda-check

check-cuda: ## Without a GPU: run the CUDA kernels on an emulator, hold their registers against kernels/cuda-budget.toml
	@.ci/setup.sh pip
	$(CARGO) test --release --locked --workspace --test emulated
	"$${CARGO_TARGET_DIR:-target}/release/cuda-check" "$$(.ci/cuda-wheels.sh)" $(ARGS)

build: setup ## Build the program: target/release/avion
	$(CARGO) build --release --locked --bin avion

check: setup ## Check that everything compiles, tests included
	$(CARGO) check --release --locked --workspace --all-targets

lint: setup ## Check the formatting and run clippy
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
		{ echo "rustfmt or clippy is missing: rustup component add rustfmt clippy" >&2; exit 1; }
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

fmt: ## Format the code
	$(CARGO) fmt --all

doc: setup ## Build the documentation: target/doc/avion/index.html
	$(CARGO) doc --release --locked --workspace --no-deps

clean: ## Remove what was built; runs/ stays
	$(CARGO) clean

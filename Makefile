# `make help` lists what there is. Everything sets itself up first; a second run costs nothing.
SHELL := /bin/bash
HEADSWAP := target/release/headswap
ARGS ?=
# A Python with a CUDA PyTorch 2.11.0, for gpu-check.
PYTHON ?= python3
# Not empty: only to see that all benchmarks run.
QUICK ?=

.DEFAULT_GOAL := help
.PHONY: help setup build demo run test check bench parity readme-check gpu-check deploy-check

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

setup: ## Check the prerequisites and fetch libtorch into the per-user cache
	@scripts/setup

build: setup ## Compile the release binary
	cargo build --release --locked

demo: build ## Classify photographs and swap heads under load, with a table at the end
	$(HEADSWAP) demo $(ARGS)

run: build ## Serve the demo's untrained weights, or others: make run ARGS='--weights FILE'
	$(HEADSWAP) serve $(if $(findstring --weights,$(ARGS)),,--weights demo) $(ARGS)

test: setup ## Run every test, then every RPC from Python by reflection
	cargo test --locked --workspace
	cargo test --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
	tests/clients/run target/debug/headswap

check: setup ## Formatting, lints, rustdoc and licences
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; else echo 'check: cargo-deny is missing; install it with: cargo install --locked cargo-deny'; fi

bench: build ## Forward pass, served rate, the server alone, isolation; then beside other engines and servers (30 minutes; QUICK=1: 7)
	$(HEADSWAP) bench forward $(if $(QUICK),--seconds 1) $(ARGS)
	$(HEADSWAP) bench serve $(if $(QUICK),--seconds 1 --repetitions 1) $(ARGS)
	$(HEADSWAP) bench serve --engine null $(if $(QUICK),--seconds 1 --repetitions 1) $(ARGS)
	$(HEADSWAP) bench isolation $(if $(QUICK),--unary 5 --stall-seconds 10 --cancels 200 --seconds 1 --repetitions 1)
	benches/run $(HEADSWAP) $(if $(QUICK),--quick)

parity: build ## Compare pixels and logits with real torchvision, live
	scripts/parity/run $(HEADSWAP)

readme-check: build ## Run the README's lines as printed
	scripts/parity/setup
	.venv/bin/python scripts/readme-check

gpu-check: build ## On a machine with a GPU: logits, speed beside PyTorch, the served rate, swaps
	$(PYTHON) benches/gpu.py $(HEADSWAP) $(ARGS)

deploy-check: ## Build the Kubernetes manifests and validate them
	scripts/deploy-check

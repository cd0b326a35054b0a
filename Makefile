# `make help` lists what there is. Everything sets itself up first; a second run costs nothing.
SHELL := /bin/bash
HEADSWAP := target/release/headswap
ARGS ?=
# A Python with a CUDA PyTorch 2.11.0, for gpu-check.
PYTHON ?= python3
# Not empty: only to see that all benchmarks run.
QUICK ?=
# Not empty: with libtorch. The default is to have it where it is of use.
TORCH ?= $(if $(wildcard /dev/nvidiactl /dev/dxg),1)

.DEFAULT_GOAL := help
.PHONY: help setup build demo run test test-cpu test-torch check bench parity python-check readme-check gpu-check deploy-check

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

setup: ## Check the prerequisites; with an NVIDIA GPU or TORCH=1, fetch libtorch into the per-user cache
	@scripts/setup $(if $(TORCH),libtorch)

build: setup ## Compile the release binary; with libtorch where an NVIDIA GPU is, or with TORCH=1
	cargo build --release --locked $(if $(TORCH),,--no-default-features)

demo: setup ## Classify photographs and swap heads under load, with a table at the end; builds what the tests build
	cargo build --locked $(if $(TORCH),,--no-default-features)
	target/debug/headswap demo $(ARGS)

run: build ## Serve the demo's untrained weights, or others: make run ARGS='--weights FILE'
	$(HEADSWAP) serve $(if $(findstring --weights,$(ARGS)),,--weights demo) $(ARGS)

test: test-cpu test-torch ## Run every test, of the program without libtorch and with it, and clients in other languages

test-cpu: ## Run the tests of the program without libtorch, then every RPC from Python, generated stubs, examples, the Python package
	@scripts/setup
	cargo test --locked --workspace --exclude headswap-torch --no-default-features
	tests/clients/run target/debug/headswap
	tests/clients/stubs target/debug/headswap
	python/test target/debug/headswap

test-torch: ## Run the tests that need libtorch
	@scripts/setup libtorch
	cargo test --locked -p headswap-torch
	cargo test --locked -p headswap --test e2e torch

check: ## Formatting, lints, rustdoc, dependencies and licences, protos, spelling
	@scripts/setup libtorch
	@scripts/setup tools
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --exclude headswap-torch --no-default-features --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items
	target/tools/cargo-deny --workspace --locked check bans licenses sources
	target/tools/buf lint
	target/tools/buf breaking --against proto/baseline.binpb
	target/tools/typos
	scripts/classify-path >/dev/null

bench: build ## Forward pass, served rate, the server alone, isolation; then beside other engines and servers (30 minutes; QUICK=1: 7)
	$(HEADSWAP) bench forward $(if $(QUICK),--seconds 1) $(ARGS)
	$(HEADSWAP) bench serve $(if $(QUICK),--seconds 1 --repetitions 1) $(ARGS)
	$(HEADSWAP) bench serve --backend null $(if $(QUICK),--seconds 1 --repetitions 1) $(ARGS)
	$(HEADSWAP) bench isolation $(if $(QUICK),--unary 5 --stall-seconds 10 --cancels 200 --seconds 1 --repetitions 1)
	benches/run $(HEADSWAP) $(if $(QUICK),--quick)

parity: build ## Compare pixels and logits with real torchvision, live
	scripts/parity/run $(HEADSWAP)

python-check: build ## Push live models of PyTorch, timm and Keras with the Python package, and check its types
	python/check $(HEADSWAP)

readme-check: build ## Run the README's lines as printed
	scripts/parity/setup
	.venv/bin/python scripts/readme-check

gpu-check: TORCH := 1
gpu-check: build ## On a machine with a GPU: logits, speed beside PyTorch, the served rate, swaps
	$(PYTHON) benches/gpu.py $(HEADSWAP) $(ARGS)

deploy-check: ## Build the Kubernetes manifests and validate them
	scripts/deploy-check

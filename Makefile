# Each target does its own set-up; see scripts/.
ARGS ?=

.PHONY: help run test soak check fmt bench bench-users fuzz

help:
	@echo 'make run              two Dovecots with Pointsman in front, until Ctrl-C'
	@echo 'make run ARGS=--once  the same, ending after the self-check'
	@echo 'make test             everything that CI runs'
	@echo 'make soak             floods and long rows of tries at full size'
	@echo 'make check            format and clippy only'
	@echo 'make fmt              format the sources'
	@echo 'make bench            cost beside nginx mail and HAProxy (ARGS are passed on)'
	@echo 'make bench-users      ten million users in a compiled map: time, size, lookups'
	@echo 'make fuzz             fuzzes every parser, FUZZ_SECONDS=60 each (ARGS are passed on)'

run:
	@scripts/run-demo $(ARGS)

test:
	@scripts/test

soak:
	@scripts/soak $(ARGS)

check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

fmt:
	cargo fmt

bench:
	@scripts/setup-packages bench
	@scripts/bench $(ARGS)

bench-users:
	@scripts/setup-packages build
	@scripts/bench-users $(ARGS)

fuzz:
	@scripts/fuzz $(ARGS)

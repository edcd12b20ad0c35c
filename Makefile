# Everything a newcomer or CI runs. Each target sets up what it needs (Debian, apt).
CARGO ?= cargo
.PHONY: run test lint web-test vm-test vm-test-package vm-test-timer deb deb-arm64 deb-reproducible \
        bench-accuracy bench-footprint bench-quick bench-serve bench-timer fuzz flood kills soak setup licences

setup:
	tests/setup.sh

# The real daemon on a simulated crystal and embedded servers: no privilege, no network, and the
# machine's own clock is never touched. Look at it from a second terminal:
# target/debug/leadville-timesync status
run: setup
	$(CARGO) run --locked -- run --simulate

test: setup
	$(CARGO) test --locked

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	python3 tests/licences.py

licences:
	python3 tests/licences.py

# A Debian guest with its own kernel clock.
vm-test:
	tests/vm/setup.sh
	$(CARGO) build --locked --release --bins
	python3 tests/vm/run.py target/release/leadville-timesync

vm-test-timer:
	tests/vm/setup.sh
	$(CARGO) build --locked --release --bins
	python3 tests/vm/timer.py target/release/leadville-timesync

vm-test-package: deb deb-arm64
	tests/vm/setup.sh
	python3 tests/package/run.py

# The page in a real headless Chromium; pictures of what it saw go to target/web.
web-test:
	tests/web/setup.sh
	$(CARGO) build --locked --release --bins
	python3 tests/web/run.py target/release

deb:
	debian/build.sh amd64

deb-arm64:
	debian/build.sh arm64

deb-reproducible:
	debian/build.sh --twice

bench-accuracy:
	$(CARGO) build --locked --release --bins
	python3 tests/bench/accuracy.py --write

# Microseconds from a frame's bytes to its string's date.
bench-timer:
	$(CARGO) run --locked --release --example frames -- --write

bench-footprint:
	tests/setup.sh
	$(CARGO) build --locked --release --bins
	python3 tests/bench/footprint.py --write

# How quick a round, `status`, a simulated day and the estimator are.
bench-quick:
	tests/setup.sh
	$(CARGO) build --locked --release --bins --example estimator
	python3 tests/bench/quick.py --write

# What 20 000 requests a second, and ten times as many, do to the clock of who serves.
bench-serve:
	tests/setup.sh
	$(CARGO) build --locked --release --bins --example flood
	python3 tests/bench/serve.py --write

SECONDS ?= 20
fuzz:
	tests/fuzz/run.sh $(SECONDS)

# A minute of 10 000 random datagrams a second against the daemon.
flood: setup
	$(CARGO) test --locked --test hostile flood -- --ignored --nocapture

# kill -9 at 200 random moments: the state always loads.
kills: setup
	$(CARGO) build --locked --release --bins
	python3 tests/bench/kills.py

MINUTES ?= 30
soak:
	$(CARGO) build --locked --release --bins
	python3 tests/bench/soak.py --minutes $(MINUTES)

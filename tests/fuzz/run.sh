#!/bin/bash
# Fuzzes each target so many seconds: tests/fuzz/run.sh SECONDS [TARGET…]. Says how many inputs were
# executed and what was found; fails if anything was, or if the fuzzer cannot be had.
#
# No sanitizer: the targets are safe Rust, whose faults are panics. So the stable toolchain is
# enough, and what is tested is what is shipped.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-20}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(replies config control timer state)
if ! command -v c++ >/dev/null; then
    # libFuzzer itself is C++.
    run=(env DEBIAN_FRONTEND=noninteractive)
    [ "$(id -u)" = 0 ] || run=(sudo "${run[@]}")
    "${run[@]}" apt-get -qq update
    "${run[@]}" apt-get -qq install -y --no-install-recommends g++ >/dev/null
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install --locked cargo-fuzz || { echo "cargo-fuzz cannot be had: nothing was fuzzed"; exit 1; }
fi
cargo fuzz build --fuzz-dir . --sanitizer none || { echo "the fuzz targets do not build"; exit 1; }
host=$(rustc -vV | sed -n 's/^host: //p')
failed=0
for target in "${targets[@]}"; do
    work=$(mktemp -d)
    mkdir -p "artifacts/$target"
    log=$work/log
    # What is found new goes to a folder of its own: the corpus stays small.
    if "target/$host/release/$target" "$work" "corpus/$target" -max_total_time="$seconds" \
        -timeout=20 -rss_limit_mb=2048 -max_len=1024 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="artifacts/$target/" >"$log" 2>&1; then
        found=nothing
    else
        found="A FAULT"
        failed=1
    fi
    count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "$target: ${count:-0} executions in $seconds s, found: $found"
    if [ "$found" != nothing ]; then
        grep -v '^#' "$log" | grep -vE '^(INFO|stat::|NEW_FUNC)' | head -40
    fi
    rm -rf "$work"
done
exit $failed

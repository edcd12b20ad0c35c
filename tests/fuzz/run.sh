#!/bin/bash
# Fuzzes each target so many seconds: tests/fuzz/run.sh SECONDS [TARGET…]. Says how many inputs were
# executed and what was found; fails if anything was, or if a target did not run.
#
# No sanitizer: the targets are safe Rust, whose faults are panics. So the stable toolchain is
# enough, what is tested is what is shipped, and cargo-fuzz (which works here too) need not be
# built: the flags below are all that it would add.
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
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions -Ccodegen-units=1"
for part in level=4 inline-8bit-counters pc-table trace-compares; do
    flags="$flags -Cllvm-args=-sanitizer-coverage-$part"
done
# With a target named, build scripts and macros get none of these flags.
RUSTFLAGS=$flags cargo build --locked --release --target "$host" ||
    { echo "the fuzz targets do not build"; exit 1; }
failed=0
for target in "${targets[@]}"; do
    work=$(mktemp -d)
    mkdir -p "artifacts/$target"
    log=$work/log
    mkdir "$work/new"
    # What is found new goes to a folder of its own: the corpus stays small.
    if "target/$host/release/$target" "$work/new" "corpus/$target" -max_total_time="$seconds" \
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
    elif [ "${count:-0}" -lt 100 ]; then
        echo "$target: hardly anything was executed"
        failed=1
    fi
    rm -rf "$work"
done
exit $failed

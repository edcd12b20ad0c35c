#!/usr/bin/env python3
"""How quick it is: a round of four servers, with a dead one, `status`, a simulated day, a sample. Medians, with the limit beside.

  quick.py [--times 21] [--write]

The servers are chronyd -x on loopback; nothing here touches this machine's clock. --write puts the table into README.md.
The exit code is 1 when a limit is exceeded.
"""
import argparse
import json
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time

from footprint import BINARY, ROOT, chronyd, free_port, measured, ours, write_between

sys.path.insert(0, ROOT + "/src/python")
from leadville_timesync import TimesyncError, status  # noqa: E402


def run(*words):
    """Wall time of one command, s."""
    began = time.monotonic()
    subprocess.run([BINARY, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def day(*words):
    """Processor time of a simulated day, s, and its exchanges."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([BINARY, "simulate", *words, "--json"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(done.stdout)["packets"]


def per_sample(seed):
    """What one more sample costs, the simulated network included, s: a day at 64 s beside one at 300 s."""
    (often, many), (rarely, few) = (day("S8", "--seed", seed, "--sync-interval", i) for i in ("64s", "300s"))
    return (often - rarely) / (many - few)


def first_fix(folder, name, ports):
    """From the start of the daemon to the moment that it calls itself synchronised, s."""
    command, env = ours(folder, name, ports, False)
    path = f"{folder.path}/{name}/sock"
    began = time.monotonic()
    process = folder.start(command, env=env)
    try:
        while time.monotonic() - began < 20:
            try:
                if status(path)["state"] == "synchronised":
                    return time.monotonic() - began
            except TimesyncError:
                pass
            time.sleep(0.002)
        raise SystemExit(f"{name}: not synchronised within 20 s")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(5)


def measure(folder, times):
    program = subprocess.run([ROOT + "/tests/chronyd.sh"], check=True, capture_output=True, text=True).stdout.strip()
    ports = [free_port() for _ in range(4)]
    for port in ports:
        chronyd(folder, program, port, "local stratum 1")
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    broken = [*ports[:3], silent.getsockname()[1]]
    time.sleep(1)
    addresses = [f"127.0.0.1:{p}" for p in ports]
    command, env = ours(folder, "asked", ports, False)
    folder.start(command, env=env)
    time.sleep(2)
    few = max(3, times // 4)
    return [("`query` of four servers, process included", [run("query", *addresses) for _ in range(times)], 0.1),
            ("daemon: start to synchronised by four servers", [first_fix(folder, f"four-{n}", ports) for n in range(few)], 0.1),
            ("daemon: the same, one of the four silent", [first_fix(folder, f"dead-{n}", broken) for n in range(few)], 2),
            ("`status`, process included", [run("--socket", f"{folder.path}/asked/sock", "status") for _ in range(times)], 0.01),
            ("a simulated day (`simulate S1`, one server)", [run("simulate", "S1", "--seed", str(n)) for n in range(few)], 2),
            ("a simulated day (`simulate S5`, four servers)", [run("simulate", "S5", "--seed", str(n)) for n in range(few)], 2),
            ("one more sample of four servers, processor time", [per_sample(str(n)) for n in range(few)], 1e-4)]


def shown(seconds):
    return f"{seconds * 1e3:.0f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=21)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    rows = measured(measure, options.times)
    lines = ["| | median | slowest | limit |", "|---|---:|---:|---:|"]
    for title, seconds, limit in rows:
        lines.append(f"| {title} | {shown(statistics.median(seconds))} | {shown(max(seconds))} | {shown(limit)} |")
    lines += ["", f"Wall time unless said, servers on loopback, {options.times} runs each, a quarter of that for the slow ones; `make bench-quick`."]
    print("\n".join(lines))
    if options.write:
        write_between("quick", "\n".join(lines))
    return any(statistics.median(seconds) > limit for _, seconds, limit in rows)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""How quick it is: a round of four servers, with a dead one, `status`, a simulated day, the estimator. Medians, with the limit beside.

  quick.py [--times 21] [--write]

The servers are chronyd -x on loopback; nothing here touches this machine's clock. --write puts the table into README.md.
The exit code is 1 when a limit is exceeded.
"""
import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import time

from footprint import BINARY, ROOT, four_servers, measured, ours, write_between

sys.path.insert(0, ROOT + "/src/python")
from leadville_timesync import TimesyncError, status  # noqa: E402


def run(*words):
    """Wall time of one command, s."""
    began = time.monotonic()
    subprocess.run([BINARY, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def per_sample():
    """What one more sample costs the estimator, s, by servers, poll, and whether they answer in rounds."""
    done = subprocess.run([ROOT + "/target/release/examples/estimator"], check=True, capture_output=True, text=True)
    return {(r["servers"], r["poll_s"], r["rounds"]): r["mean_us"] / 1e6 for r in map(json.loads, done.stdout.splitlines())}


def first_fix(folder, name, servers):
    """From the start of the daemon to the moment that it calls itself synchronised, s."""
    command, env = ours(folder, name, servers, False)
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
    servers = four_servers(folder, program)
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    broken = [*servers[:3], silent.getsockname()]
    time.sleep(1)
    addresses = [f"{host}:{port}" for host, port in servers]
    command, env = ours(folder, "asked", servers, False)
    folder.start(command, env=env)
    time.sleep(2)
    few = max(3, times // 4)
    samples = [per_sample() for _ in range(few)]
    return [("`query` of four servers, process included", [run("query", *addresses) for _ in range(times)], 0.1),
            ("daemon: start to synchronised by four servers", [first_fix(folder, f"four-{n}", servers) for n in range(few)], 0.1),
            ("daemon: the same, one of the four silent", [first_fix(folder, f"dead-{n}", broken) for n in range(few)], 2),
            ("`status`, process included", [run("--socket", f"{folder.path}/asked/sock", "status") for _ in range(times)], 0.01),
            ("a simulated day (`simulate S1`, one server)", [run("simulate", "S1", "--seed", str(n)) for n in range(few)], 2),
            ("a simulated day (`simulate S5`, four servers)", [run("simulate", "S5", "--seed", str(n)) for n in range(few)], 2),
            *(("the estimator, one more sample of {} servers, {:.0f} s apart{}: processor time".format(*case[:2], ", in rounds" * case[2]),
               [s[case] for s in samples], limit)
              for case, limit in (((4, 64, False), 1e-4), ((4, 300, False), 1e-4), ((4, 300, True), 1e-4), ((8, 64, False), None)))]


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
        lines.append(f"| {title} | {shown(statistics.median(seconds))} | {shown(max(seconds))} | {shown(limit) if limit else '–'} |")
    lines += ["", f"Wall time unless said, servers on loopback, {options.times} runs each, a quarter of that for the slow ones; `make bench-quick`."]
    print("\n".join(lines))
    if options.write:
        write_between("quick", "\n".join(lines))
    return any(limit and statistics.median(seconds) > limit for _, seconds, limit in rows)


if __name__ == "__main__":
    sys.exit(main())

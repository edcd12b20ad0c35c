#!/usr/bin/env python3
"""How right the clock is: the whole engine in the simulated world, over scenarios and seeds.

Prints a table beside the peers' figures, fails when a limit is exceeded, and with
--write puts the table into README. Seeds from 1001 on: those below were used for tuning.
"""
import argparse
import concurrent.futures
import csv
import datetime
import json
import math
import pathlib
import resource
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ROOT / "tests/data/peers-accuracy.csv"
MARKS = ("<!-- accuracy -->", "<!-- /accuracy -->")
FIRST_SEED = 1001

# What is run: scenario, interval (s), seeds, limits. Limits of an error (µs) are at most 15 %
# above the measured median and never above the goal; "max" is the median of the worst second,
# "coverage" the worst seed's, "covered" the median. Below 0.95 stands what nobody can see: a shock in an
# outage without a thermometer, and asymmetries that all servers share.
GOAL = {"packets": 320, "coverage": 0.95, "width": 4.0}
GOAL_64 = GOAL | {"packets": 1360}
ROWS = [
    ("S1", 300, 5, GOAL | {"rms": 19}),
    ("S2", 300, 5, GOAL | {"rms": 240}),
    ("S3", 300, 5, {"sd": 700, "packets": 320}),
    ("S4", 300, 5, GOAL | {"rms": 880}),
    ("S5", 300, 5, GOAL | {"rms": 170}),
    ("S8", 300, 5, GOAL | {"rms": 144}),
    ("S1", 64, 5, GOAL_64 | {"rms": 7.8}),
    ("S2", 64, 5, GOAL_64 | {"rms": 118}),
    ("S3", 64, 5, {"sd": 390, "packets": 1360}),
    ("S4", 64, 5, GOAL_64 | {"rms": 427}),
    ("S5", 64, 5, GOAL_64 | {"rms": 82}),
    ("S8", 64, 5, GOAL_64 | {"rms": 69}),
    ("S4t", 300, 5, GOAL | {"rms": 357}),
    ("S4t", 64, 5, GOAL_64 | {"rms": 150}),
    ("S6a", 300, 5, {"within_20ms": 5, "within_1ms": 75, "packets": 320}),
    ("S6b", 300, 5, {"within_20ms": 5, "within_1ms": 75, "packets": 320}),
    ("S7", 300, 50, {"max": 1600, "coverage": 0.95, "width": 4.0}),
    ("S7", 64, 50, {"max": 900, "coverage": 0.95, "width": 4.0}),
    ("S9", 300, 10, {"coverage": 0.7, "covered": 0.93}),
    ("S9t", 300, 10, {"coverage": 0.7, "covered": 0.93}),
    ("S9d", 300, 10, {"max": 6_400, "coverage": 0.95}),
    ("shade", 300, 10, {"max": 5_200, "coverage": 0.95}),
    ("heat", 300, 10, {"rms": 22_900, "coverage": 0.25, "packets": 320}),
    ("heat-t", 300, 10, {"rms": 2310, "coverage": 0.6, "covered": 0.85, "packets": 320}),
    ("route", 300, 5, GOAL | {"rms": 258}),
    ("powersave", 300, 5, {"rms": 412, "coverage": 0.9, "covered": 0.95, "packets": 320}),
    ("coarse", 300, 3, {"rms": 210_000, "coverage": 0.95}),
    ("fast", 300, 3, GOAL | {"rms": 246}),
    ("slow", 300, 3, GOAL | {"rms": 246}),
    ("foreign", 300, 3, {"coverage": 0.95}),
    ("era", 300, 3, GOAL | {"rms": 268}),
    ("restarts", 300, 3, {"p95": 1400, "coverage": 0.95}),
    ("ramp", 300, 3, {"rms": 574, "coverage": 0.95, "packets": 320}),
    ("normal", 300, 3, {"rms": 1640, "coverage": 0.94, "packets": 320}),
    ("gamma", 300, 3, {"rms": 637, "coverage": 0.94, "packets": 320}),
    ("heavy", 300, 3, GOAL | {"rms": 223}),
]
# chrony at the same number of packets
RIVALS = {300: "chrony, 256 s", 64: "chrony, 64 s"}
RATIO_LIMITS = {300: 0.55, 64: 0.47}
TOGETHER = 0.5
WORST_RATIO = 0.9
HEAT_SHARE = 0.25  # with a learned thermometer, of without
SECONDS_PER_DAY = 2.0  # processor time of a simulated day
COMPARED = ("S1", "S2", "S3", "S4", "S5", "S8")


def peers():
    """peer → scenario → (error, requests)."""
    table = {}
    with PEERS.open(encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            requests = int(row["requests"]) if row["requests"] else None
            table.setdefault(row["peer"], {})[row["scenario"]] = (int(row["error_us"]), requests)
    return table


def run(binary, scenario, interval, seed):
    done = subprocess.run(
        [binary, "simulate", scenario, "--seed", str(seed), "--sync-interval", f"{interval}s", "--json"],
        check=True, capture_output=True, timeout=600)
    return json.loads(done.stdout)


def middle(runs, key):
    known = [r[key] for r in runs if r[key] is not None]
    return statistics.median(known) if known else None


def figures(runs):
    return {
        "rms": middle(runs, "rms_us"),
        "sd": middle(runs, "sd_us"),
        "p95": middle(runs, "p95_us"),
        "max": middle(runs, "max_us"),
        "packets": middle(runs, "packets_per_server_day"),
        "coverage": min(r["coverage"] for r in runs),
        "covered": middle(runs, "coverage"),
        "width": middle(runs, "width_over_rms"),
        "within_20ms": middle(runs, "within_20ms_s"),
        "within_1ms": middle(runs, "within_1ms_s"),
    }


def exceeded(name, interval, got, limits):
    for key, limit in limits.items():
        value = got[key]
        wrong = value is None or (value < limit if key in ("coverage", "covered") else value > limit)
        if wrong:
            yield f"{name} at {interval} s: {key} is {shown(value)}, the limit is {shown(limit)}"


def shown(value):
    if value is None:
        return "–"
    if value >= 100_000:
        return f"{value / 1e6:.2f} s" if value >= 1_000_000 else f"{value / 1000:.0f} ms"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def mean_ratio(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else float("nan")


def compare(results, table):
    """Ratios to chrony at the same number of packets, and what is exceeded."""
    ratios, faults = {}, []
    for interval, rival in RIVALS.items():
        own = {}
        for name in COMPARED:
            got = results.get((name, interval))
            if got:
                own[name] = got["sd" if name == "S3" else "rms"] / table[rival][name][0]
        ratios[interval] = own
        if own and mean_ratio(own.values()) > RATIO_LIMITS[interval]:
            faults.append(f"{interval} s: {mean_ratio(own.values()):.2f} of chrony's error")
        faults += [f"{n} at {interval} s: {r:.2f} of chrony's error" for n, r in own.items() if r > WORST_RATIO]
    both = [r for own in ratios.values() for r in own.values()]
    if both and mean_ratio(both) > TOGETHER:
        faults.append(f"both rows: {mean_ratio(both):.2f} of chrony's error")
    plain, warm = results.get(("heat", 300)), results.get(("heat-t", 300))
    if plain and warm and warm["rms"] > HEAT_SHARE * plain["rms"]:
        faults.append(f"heat: {warm['rms'] / plain['rms']:.2f} with the thermometer, of without")
    return ratios, faults


def report(results, ratios, table, seeds):
    lines = [
        "True error of the disciplined clock in the simulated world (`make bench-accuracy` rewrites this; "
        f"last {datetime.date.today()}), after the first hour, µs; median of the seeds. "
        "*Inside* is the share of time the true error was inside the stated 95 % bound "
        "(worst seed; time for which no bound is stated counts as inside), "
        "*width* the bound's median by the RMS error. `leadville-timesync simulate NAME --seed N` runs one day.",
        "",
        "| scenario | every | seeds | RMS | sd | 95 % | worst | requests per server and day | inside (worst seed) | width | of chrony's error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, interval), got in results.items():
        ratio = ratios.get(interval, {}).get(name)
        lines.append(
            f"| {name} | {interval} s | {seeds[name, interval]} | {shown(got['rms'])} | {shown(got['sd'])} | {shown(got['p95'])} | {shown(got['max'])} "
            f"| {shown(got['packets'])} | {got['covered']:.3f} ({got['coverage']:.3f}) "
            f"| {shown(got['width'])} | {'' if ratio is None else f'{ratio:.2f}'} |")
    both = [r for own in ratios.values() for r in own.values()]
    parts = [f"{mean_ratio(own.values()):.2f} every {i} s" for i, own in ratios.items() if own]
    if both:
        lines += ["", f"chrony's error at the same number of requests times (geometric mean over {', '.join(COMPARED)}): "
                  f"{', '.join(parts)}, {mean_ratio(both):.2f} together. S3 is compared by its sd: 15 ms of its error are an "
                  "asymmetry nobody can see, and no bound of ours speaks of it."]
    lines += ["", "Peers' figures for the same scenarios, measured once (µs RMS, S3 sd; requests in brackets; how: "
              "[tests/data/peers-accuracy.csv](tests/data/peers-accuracy.csv)):", "",
              "| | " + " | ".join(COMPARED) + " | S7, worst blind |", "|---|" + "---|" * (len(COMPARED) + 1)]
    for interval in RIVALS:
        cells = []
        for name in (*COMPARED, "S7"):
            got = results.get((name, interval))
            key = {"S3": "sd", "S7": "max"}.get(name, "rms")
            count = f" ({got['all_packets']:.0f})" if got and name != "S7" else ""
            cells.append(f"**{shown(got[key])}**{count}" if got else "–")
        lines.append(f"| **ours, {interval} s** | " + " | ".join(cells) + " |")
    for peer, errors in table.items():
        cells = []
        for name in (*COMPARED, "S7"):
            error, requests = errors.get(name, (None, None))
            cells.append("–" if error is None else f"{error}" + (f" ({requests})" if requests else ""))
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default=str(ROOT / "target/release/leadville-timesync"))
    parser.add_argument("--write", action="store_true", help="put the table into README")
    parser.add_argument("--only", help="scenarios, by comma")
    parser.add_argument("--seeds", type=int, default=1000, help="at most so many of each")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    rows = [r for r in ROWS if not options.only or r[0] in options.only.split(",")]
    table = peers()
    results, seeds, faults, days = {}, {}, [], 0.0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, interval, count, limits in rows:
            count = min(count, options.seeds)
            wanted = range(options.first_seed, options.first_seed + count)
            runs = list(pool.map(lambda seed: run(options.binary, name, interval, seed), wanted))
            got = figures(runs)
            got["all_packets"] = statistics.median(r["packets"] for r in runs)
            results[name, interval], seeds[name, interval] = got, count
            days += sum(r["hours"] for r in runs) / 24
            faults += exceeded(name, interval, got, limits)
            print(f"{name:9} {interval:3} s  rms {shown(got['rms'])}  sd {shown(got['sd'])}  "
                  f"inside {got['coverage']:.3f}", file=sys.stderr, flush=True)
    ratios, more = compare(results, table)
    faults += more
    text = report(results, ratios, table, seeds)
    print(text)
    # processor time: others may be busy here too
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    pace = (spent.ru_utime + spent.ru_stime) / days
    print(f"\n{pace:.2f} s of a processor per simulated day ({days:.0f} days)")
    if pace > SECONDS_PER_DAY:
        faults.append(f"{pace:.2f} s of a processor per simulated day, the limit is {SECONDS_PER_DAY}")
    if options.write:
        readme = ROOT / "README.md"
        whole = readme.read_text(encoding="utf-8")
        before, rest = whole.split(MARKS[0], 1)
        after = rest.split(MARKS[1], 1)[1]
        readme.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")
    for fault in faults:
        print(f"EXCEEDED: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

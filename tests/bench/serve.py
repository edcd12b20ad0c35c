#!/usr/bin/env python3
"""What serving time costs, and what a flood does to our own exchanges: on loopback, one machine.

  serve.py [--seconds 20] [--rates 0,20000,200000] [--write]

For each rate: how many requests a second were sent, how many answered, the processor time of the daemon, which has one core
to itself, and how far its own exchanges and its estimate are from the server it follows (a chronyd that serves this very clock,
so that the truth is zero). Fails when a limit is exceeded; --write puts the table into README. Nothing here touches this
machine's clock: chronyd runs with -x, ours without the right.
"""
import argparse
import datetime
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from footprint import BARRED, ROOT, free_port, write_between  # noqa: E402

# The daemon has the first core of this machine, everybody else the others.
CORES = sorted(os.sched_getaffinity(0))
OWN = ["taskset", "-c", str(CORES[0])]
OTHERS = ["taskset", "-c", ",".join(map(str, CORES[1:] or CORES))]
# One address has 100 answers a second here, so that all together may have 25 600.
ADDRESSES = 256
# Of a load that must be borne: the least share of answers, and the worst own exchange and estimate, µs.
BORNE = (20_000, 0.95, 100, 100)
# Of any flood: still disciplined.
FLOOD_US = 1_000


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("--seconds", type=int, default=20)
    parse.add_argument("--rates", default="0,20000,200000")
    parse.add_argument("--write", action="store_true", help="put the table into README")
    parse.add_argument("--binary", default=ROOT + "/target/release/leadville-timesync")
    args = parse.parse_args()
    folder = tempfile.mkdtemp(prefix="leadville-serve-")
    chrony = subprocess.run([ROOT + "/tests/chronyd.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    upstream, port = free_port(), free_port()
    with open(folder + "/chrony.conf", "w", encoding="ascii") as f:
        f.write(f"port {upstream}\nbindaddress 127.0.0.1\nallow 127.0.0.0/8\ncmdport 0\nbindcmdaddress /\n"
                f"pidfile {folder}/chrony.pid\nlocal stratum 1\n")
    with open(folder + "/timesync.toml", "w", encoding="ascii") as f:
        f.write(f'[ntp]\nservers = ["127.0.0.1:{upstream}"]\nsync_interval = "16s"\ntimeout = "2s"\n[clock]\nsteer = false\n'
                f'[state]\ndirectory = "{folder}"\n[control]\nsocket = "{folder}/sock"\ngroup = ""\n'
                f'[serve]\nenabled = true\nlisten = "127.0.0.1:{port}"\nallow = ["127.0.0.0/8"]\nper_minute = 6000\n')
    user = ["-u", "root"] if os.geteuid() == 0 else ["-U"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen([*OTHERS, chrony, "-x", "-d", *user, "-f", folder + "/chrony.conf"], **quiet)]
    running.append(subprocess.Popen([*OWN, *BARRED, args.binary, "run", "--config", folder + "/timesync.toml"], **quiet))

    def status():
        out = subprocess.run([args.binary, "--socket", folder + "/sock", "status", "--json"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        return json.loads(out) if out else {}

    try:
        began = time.time()
        while status().get("sync_count", 0) < 12:
            if time.time() - began > 90:
                sys.exit("the daemon does not follow chronyd")
            subprocess.run([args.binary, "--socket", folder + "/sock", "sync-now"], **quiet, check=False)
            time.sleep(1.1)
        lines, faults = [], []
        lines += ["| requests/s | answered/s | daemon, of its core | own exchanges | their offset, median and worst | estimate off by |",
                  "|---|---|---|---|---|---|"]
        print("\n".join(lines))
        for rate in (int(r) for r in args.rates.split(",")):
            before = processor_seconds(running[1].pid)
            counted = status()["sync_count"]
            words = [str(n) for n in (port, rate, args.seconds, ADDRESSES)]
            flooder = subprocess.Popen([*OTHERS, ROOT + "/target/release/examples/flood", *words],
                                       stdout=subprocess.PIPE, text=True) if rate else None
            offsets, estimates, end = [], [], time.time() + args.seconds
            while time.time() < end:
                subprocess.run([args.binary, "--socket", folder + "/sock", "sync-now"], **quiet, check=False)
                time.sleep(1.1)
                now = status()
                if now.get("servers") and now["servers"][0]["offset_us"] is not None:
                    offsets.append(abs(now["servers"][0]["offset_us"]))
                    estimates.append(abs(now["offset_us"]))
            told = json.loads(flooder.communicate(timeout=30)[0]) if flooder else {"sent": 0, "answered": 0}
            sent, answered = told["sent"], told["answered"]
            used = (processor_seconds(running[1].pid) - before) / args.seconds * 100
            last = status()
            heard, worst, off = last["sync_count"] - counted, max(offsets, default=math.inf), max(estimates, default=math.inf)
            lines.append(f"| {sent:.0f} | {answered:.0f} | {used:.0f} % | {heard} | {statistics.median(offsets or [math.inf]):.0f}, "
                         f"{worst:.0f} µs | {off:.0f} µs |")
            print(lines[-1], flush=True)
            if last["state"] != "synchronised" or heard < args.seconds / 5 or off > FLOOD_US:
                faults.append(f"{sent} requests a second: {last['state']}, {heard} own exchanges, the estimate {off:.0f} µs off")
            if 0 < rate <= BORNE[0] and (answered < BORNE[1] * sent or worst > BORNE[2] or off > BORNE[3]):
                faults.append(f"{sent} requests a second: {answered} answered, own exchanges {worst:.0f} µs, estimate {off:.0f} µs off")
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(5)
    if args.write:
        note = (f"Requests of {ADDRESSES} addresses on loopback, {args.seconds} s each, the daemon on one core ({datetime.date.today()}); own "
                f"exchanges about every second; asked for were {args.rates.replace(',', ', ')} a second, the first column is what this "
                "machine could send. `make bench-serve`.")
        write_between("serve", "\n".join(lines) + "\n\n" + note)
    for fault in faults:
        print(f"EXCEEDED: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

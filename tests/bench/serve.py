#!/usr/bin/env python3
"""What serving time costs, and what a flood does to our own exchanges: on loopback, one machine.

  serve.py [--seconds 20] [--rates 0,20000,200000]

For each rate: how many requests a second were sent, how many answered, the processor time of the daemon, and how far
the daemon's own clock estimate is from the server it follows (a chronyd that serves this very clock, so that the truth
is zero) before and while it floods. Nothing here touches this machine's clock: chronyd runs with -x, ours without the right.
"""
import argparse
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BARRED = ["setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time"] if os.geteuid() == 0 else []
REQUEST = bytes([0x23]) + bytes(39) + b"leadvill"


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def flood(port, rate, seconds, result):
    """Sends `rate` requests a second from many ports of an address of its own, and counts what comes back."""
    sockets = []
    for n in range(16):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        s.bind((f"127.0.{n}.2", 0))
        s.connect(("127.0.0.1", port))
        s.setblocking(False)
        sockets.append(s)
    begin = time.perf_counter()
    sent = answered = 0
    while (now := time.perf_counter() - begin) < seconds:
        behind = int(now * rate) - sent
        for n in range(min(behind, 200)):
            try:
                sockets[n % 16].send(REQUEST)
            except OSError:
                pass
            sent += 1
        for s in sockets:
            try:
                while True:
                    s.recv(64)
                    answered += 1
            except OSError:
                pass
        if behind <= 0:
            time.sleep(0.0005)
    result.put((sent / seconds, answered / seconds))


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("--seconds", type=float, default=20)
    parse.add_argument("--rates", default="0,20000,200000")
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
    running = [subprocess.Popen([chrony, "-x", "-d", *user, "-f", folder + "/chrony.conf"], **quiet)]
    running.append(subprocess.Popen([*BARRED, args.binary, "run", "--config", folder + "/timesync.toml"], **quiet))

    def status():
        out = subprocess.run([args.binary, "--socket", folder + "/sock", "status", "--json"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        return json.loads(out) if out else {}

    try:
        began = time.time()
        while status().get("sync_count", 0) < 12:
            if time.time() - began > 90:
                sys.exit("the daemon does not follow chronyd")
            time.sleep(0.5)
        print("| sent/s | answered/s | daemon's processor | own exchanges | offset of them, median and worst | estimate off by |")
        print("|---|---|---|---|---|---|")
        for rate in (int(r) for r in args.rates.split(",")):
            result, before = multiprocessing.Queue(), processor_seconds(running[1].pid)
            counted = status()["sync_count"]
            flooder = multiprocessing.Process(target=flood, args=(port, rate, args.seconds, result)) if rate else None
            if flooder:
                flooder.start()
            offsets, estimates, end = [], [], time.time() + args.seconds
            while time.time() < end:
                subprocess.run([args.binary, "--socket", folder + "/sock", "sync-now"], **quiet, check=False)
                time.sleep(1.1)
                now = status()
                if now.get("servers") and now["servers"][0]["offset_us"] is not None:
                    offsets.append(abs(now["servers"][0]["offset_us"]))
                    estimates.append(abs(now["offset_us"]))
            sent, answered = result.get() if flooder else (0, 0)
            if flooder:
                flooder.join()
            used = (processor_seconds(running[1].pid) - before) / args.seconds * 100
            heard = status()["sync_count"] - counted
            print(f"| {sent:.0f} | {answered:.0f} | {used:.0f} % | {heard} | {statistics.median(offsets):.0f}, {max(offsets):.0f} µs "
                  f"| {max(estimates):.0f} µs |", flush=True)
        print(json.dumps(status()["serve"]))
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(5)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""`make kills`: the daemon killed with -9 at many random moments, half of them while it stops and
writes everything. After each: every state file is whole, and the next daemon finds nothing amiss.

The daemon runs with steer = false against servers of this script on the loopback; the simulated
world of `run --simulate` keeps no files, so it is killed too, but only has to start again.
"""
import argparse
import json
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from footprint import environment

EPOCH = 2_208_988_800


def serve(sock):
    """A good server of stratum 1, until the process ends."""
    while True:
        request, address = sock.recvfrom(1500)
        now = time.time()
        stamp = struct.pack(">II", (int(now) + EPOCH) & 0xFFFFFFFF, int(now % 1 * 2**32))
        reply = bytes([0x24, 1, 6, 0xEC]) + bytes(8) + b"GPS\0" + stamp + request[40:48] + stamp * 2
        sock.sendto(reply, address)


def servers(count):
    ports = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(sock,), daemon=True).start()
        ports.append(sock.getsockname()[1])
    return ports


class Victim:
    """One place with its state, killed again and again."""

    def __init__(self, program, ports, seed):
        self.program, self.chance = program, random.Random(seed)
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="kills."))
        self.state = self.place / "state"
        self.state.mkdir(mode=0o755)
        names = ", ".join(f'"127.0.0.1:{p}"' for p in ports)
        self.config = self.place / "timesync.toml"
        self.config.write_text(
            f'[ntp]\nservers = [{names}]\nsync_interval = "16s"\ntimeout = "1s"\n'
            f'[clock]\nsteer = false\n[control]\ngroup = ""\n[state]\ndirectory = "{self.state}"\n'
        )
        self.learned = False
        self.kills = self.while_stopping = self.with_drift = 0

    def once(self):
        log = open(self.place / "log", "w", encoding="utf-8")
        line = [self.program, "--socket", self.place / "sock", "run", "--config", self.config]
        child = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment()
        )
        stopping = self.chance.random() < 0.5
        # With servers a second apart a dozen samples, which teach something, take a few seconds.
        time.sleep(self.chance.uniform(4.0, 7.0) if stopping else self.chance.uniform(0.0, 4.0))
        if stopping:
            child.terminate()
            time.sleep(self.chance.uniform(0.0, 0.012))
        child.kill()
        child.wait()
        log.close()
        self.kills += 1
        self.while_stopping += stopping
        self.judge(started=time.time())

    def judge(self, started):
        said = (self.place / "log").read_text(encoding="utf-8", errors="replace")
        for word in ("damaged", "torn", "not used:", "a defect"):
            assert word not in said, f"the daemon complains: {said}"
        drift = self.state / "drift"
        assert drift.exists() or not self.learned, "what was learned is lost"
        if drift.exists():
            kept = json.loads(drift.read_text(encoding="utf-8"))
            assert kept["crystal"]["sd_ppm"] < 50, kept
            self.learned = True
            self.with_drift += 1
        addresses = self.state / "addresses"
        if addresses.exists():
            assert addresses.read_text(encoding="utf-8").endswith("\n")
        clock = self.state / "clock"
        if clock.exists():
            assert clock.stat().st_mtime <= started + 1, "the clock file is ahead of the time"
        parts = [p.name for p in self.state.iterdir() if p.name.startswith(".")]
        assert len(parts) <= 3, f"parts pile up: {parts}"


def simulated(program, count, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        for n in range(count):
            line = [program, "--socket", f"{place}/sock", "run", "--simulate", "--plain", "--seed", str(n)]
            child = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(chance.uniform(0.0, 2.0))
            assert child.poll() is None, f"it ended by itself with {child.returncode}"
            child.kill()
            child.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", nargs="?", default="target/release/leadville-timesync")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    ports = servers(4)
    victims = [Victim(arguments.program, ports, arguments.seed + n) for n in range(4)]
    left, lock, failed = [arguments.kills], threading.Lock(), []

    def work(victim):
        while not failed:
            with lock:
                if left[0] == 0:
                    return
                left[0] -= 1
            try:
                victim.once()
            except AssertionError as wrong:
                failed.append(f"{victim.place}: {wrong}")

    threads = [threading.Thread(target=work, args=(v,)) for v in victims]
    start = time.time()
    for thread in threads:
        thread.start()
    simulated(arguments.program, 20, arguments.seed)
    for thread in threads:
        thread.join()
    for sentence in failed:
        print(f"FAILED {sentence}")
    if failed:
        sys.exit(1)
    total = sum(v.kills for v in victims)
    stopping = sum(v.while_stopping for v in victims)
    drift = sum(v.with_drift for v in victims)
    print(
        f"{total} kills in {time.time() - start:.0f} s, {stopping} of them while stopping; the drift "
        f"file was there after {drift} of them and whole each time, and no daemon found anything "
        f"amiss; 20 more in the simulated world"
    )


main()

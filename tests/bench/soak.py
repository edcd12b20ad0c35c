#!/usr/bin/env python3
"""Two daemons for as long as you like, with something going wrong all the time.

  soak.py [--minutes 30] [--write]

One watches real sockets: its four servers die, lie, stammer and come back, its disk fills up, clients come, misbehave and
go, its configuration is read again and again. The other lives in the simulated world with its timer (`run --simulate --faults`):
servers die in turn and all at once, one turns liar, somebody sets the clock, the timer's link drops in the middle of strings;
it gets the same clients and reloads. Judged: memory, descriptors and threads stay flat; every alert belongs to a fault and every
fault that deserves one has its alert; each link that dropped is back; nobody dies. This machine's clock is never touched: one
daemon may only watch, the other simulates.
"""
import argparse
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from footprint import BARRED, BINARY, Folder, environment, memory, say, write_between  # noqa: E402

ERA = 2_208_988_800
SETTLE = 300            # flatness is judged after so many seconds
FLAT_KB = 64


class Server(threading.Thread):
    """An NTP server that does as it is told: good, dead, garbage, busy (RATE), or wrong by some seconds."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port, self.number, self.mood, self.offset = self.socket.getsockname()[1], number, "good", 0.0
        self.start()

    def run(self):
        while True:
            request, who = self.socket.recvfrom(2048)
            if self.mood == "dead" or len(request) < 48:
                continue
            if self.mood == "garbage":
                self.socket.sendto(os.urandom(random.randrange(1, 200)), who)
                continue
            now = time.time() + self.offset + ERA
            stamp = struct.pack("!II", int(now) & 0xffffffff, int(now % 1 * 2**32))
            stratum, reference = (0, b"RATE") if self.mood == "busy" else (1, b"S%03d" % self.number)
            head = struct.pack("!BBbb", 0x24, stratum, 6, -20) + bytes(8) + reference
            self.socket.sendto(head + stamp + request[40:48] + stamp + stamp, who)


class Subject:
    """A daemon, what it says, and what it costs."""

    def __init__(self, folder, name, arguments):
        self.name, self.place = name, f"{folder.path}/{name}.sock"
        self.process = folder.start([*BARRED, BINARY, "--socket", self.place, "run", *arguments], env=environment())
        self.log = f"{folder.path}/log-{len(folder.running) - 1}"
        self.events, self.costs = [], []
        end = time.monotonic() + 20
        while not os.path.exists(self.place):
            if time.monotonic() > end:
                sys.exit(f"{name} does not start: {open(self.log).read()}")
            time.sleep(0.05)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.place)
            s.sendall(b'{"do":"subscribe"}\n')
            for line in s.makefile():
                event = json.loads(line)
                if event.get("event"):
                    self.events.append((time.monotonic(), event))

    def ask(self, request):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(self.place)
            s.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(s.makefile().readline())

    def weigh(self):
        pid = self.process.pid
        self.costs.append((time.monotonic(), memory(pid)["Anonymous"], len(os.listdir(f"/proc/{pid}/fd")),
                           len(os.listdir(f"/proc/{pid}/task"))))


def misbehave(subject, chance):
    """One client as they come: hasty, garbled, mute, curious, greedy."""
    kind = chance.randrange(5)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(2)
            s.connect(subject.place)
            if kind == 0:
                s.sendall(b'{"do":"sta')
            elif kind == 1:
                s.sendall(os.urandom(3000) + b"\n")
            elif kind == 2:
                s.sendall(b'{"do":"subscribe"}\n')
                time.sleep(0.2)
            elif kind == 3:
                for what in ("status", "sources", "history"):
                    s.sendall(json.dumps({"do": what}).encode() + b"\n")
                    s.recv(65536)
            else:
                s.sendall(b"x" * 70_000)
    except OSError:
        pass


class Faults:
    """What goes wrong, one after the other, each kind once before any comes again; the ones that must raise an alert are noted."""

    KINDS = ("one dies", "two die", "all die", "one lies", "one stammers", "one is busy", "all jump 60 ms", "disk full")

    def __init__(self, servers, subject, disk, chance):
        self.servers, self.subject, self.disk, self.chance = servers, subject, disk, chance
        self.alarming, self.done, self.left = [], {}, []

    def calm(self):
        for server in self.servers:
            server.mood, server.offset = "good", 0.0
        if self.disk and os.path.exists(self.disk + "/filler"):
            os.unlink(self.disk + "/filler")

    def one(self):
        self.left = self.left or self.chance.sample(self.KINDS, len(self.KINDS))
        kind = self.left.pop()
        some = self.chance.sample(self.servers, 2)
        if kind == "one dies":
            some[0].mood = "dead"
        elif kind == "two die":
            some[0].mood = some[1].mood = "dead"
        elif kind == "all die":
            for server in self.servers:
                server.mood = "dead"
        elif kind == "one lies":
            some[0].offset = self.chance.choice([-0.3, 0.3, 5.0, 86400.0])
        elif kind == "one stammers":
            some[0].mood = "garbage"
        elif kind == "one is busy":
            some[0].mood = "busy"
        elif kind == "all jump 60 ms":
            self.alarming.append(time.monotonic())
            for server in self.servers:
                server.offset = 0.06
        elif self.disk:
            try:
                with open(self.disk + "/filler", "wb") as f:
                    while True:
                        f.write(bytes(65536))
            except OSError:
                pass
        self.done[kind] = self.done.get(kind, 0) + 1
        return kind


def small_disk(folder):
    """A file system of a megabyte, where we may make one."""
    place = folder.path + "/disk"
    os.mkdir(place)
    made = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "soak", place], capture_output=True).returncode == 0
    return place, made


def live(options, folder, disk, own_disk):
    chance = random.Random(options.seed)
    servers = [Server(n) for n in range(4)]
    listed = ", ".join(f'{{ address = "127.0.0.1:{s.port}", operator = "operator {s.number}" }}' for s in servers)
    config = folder.path + "/timesync.toml"
    with open(config, "w") as f:
        f.write(f'[ntp]\nservers = [{listed}]\nsync_interval = "16s"\n[clock]\nsteer = false\n[control]\ngroup = ""\n[state]\ndirectory = "{disk}"\n')
    watching = Subject(folder, "watching", ["--config", config])
    simulated = Subject(folder, "simulated", ["--simulate", "--faults", "--plain", "--seed", str(options.seed)])
    subjects = [watching, simulated]
    faults = Faults(servers, watching, disk if own_disk else None, chance)
    began = time.monotonic()
    until, fault_until, rest_until, told = began + 60 * options.minutes, 0.0, began + 90, 0
    while time.monotonic() < until:
        now = time.monotonic()
        if fault_until and now > fault_until:
            faults.calm()
            fault_until, rest_until = 0.0, now + 80
        elif not fault_until and now > rest_until and now < until - 170:
            say(f"{(now - began) / 60:4.1f} min: {faults.one()}")
            fault_until = now + 80
        for subject in subjects:
            if subject.process.poll() is not None:
                return subjects, faults, f"{subject.name} ended with {subject.process.returncode}: {open(subject.log).read()[-2000:]}"
            misbehave(subject, chance)
            if chance.random() < 0.02:
                subject.process.send_signal(signal.SIGHUP)
            subject.weigh()
        if now - began > 60 * told:
            told += 1
            say(f"{told - 1:4d} min: " + ", ".join(f"{s.name} Anonymous {s.costs[-1][1]} kB, {s.costs[-1][2]} descriptors" for s in subjects))
        time.sleep(1)
    return subjects, faults, None


def judge(subjects, faults, died):
    wrong = [died] if died else []
    rows = []
    for s in subjects:
        start = s.costs[0][0]
        late = [c for c in s.costs if c[0] - start > SETTLE] or s.costs[len(s.costs) // 2:]
        quarter = max(1, len(late) // 4)
        # Clients are there for a moment: what counts is the least of a while.
        early, end = (min(c[1] for c in part) for part in (late[:quarter], late[-quarter:]))
        files = [min(c[2] for c in part) for part in (late[:quarter], late[-quarter:])]
        threads = [min(c[3] for c in part) for part in (late[:quarter], late[-quarter:])]
        rows.append(f"| {s.name} | {early} kB | {end} kB | {files[0]} → {files[1]} | {threads[0]} → {threads[1]} | {len(s.events)} |")
        if end - early > FLAT_KB:
            wrong.append(f"{s.name}: Anonymous grew from {early} to {end} kB")
        if files[1] > files[0] or threads[1] > threads[0]:
            wrong.append(f"{s.name}: descriptors {files}, threads {threads}")
        if "a defect of this program" in open(s.log).read():
            wrong.append(f"{s.name}: a panic in its log")
    told = [(t, e) for t, e in subjects[0].events if e["event"] == "alert"]
    alerts, began = [t for t, _ in told], subjects[0].costs[0][0]
    for injected in faults.alarming:
        if not any(0 <= t - injected <= 80 for t in alerts):
            wrong.append("all servers jumped by 60 ms and no alert was raised")
    for t, event in told:
        if not any(0 <= t - injected <= 170 for injected in faults.alarming):
            wrong.append(f"an alert without a fault that explains it, after {(t - began) / 60:.1f} min: {json.dumps(event)}")
    happened, more = misfortunes(subjects[1])
    return rows, wrong + more, alerts, happened


def misfortunes(subject):
    """What befell the simulated daemon, in words, and what of it was not told as it should be."""
    def when(what, key="event"):
        return [t for t, e in subject.events if e.get(key) == what]

    def link(what):
        return when(what, "type")

    end = subject.costs[-1][0]
    steps, alerts, drops, ups = when("foreign_step"), when("alert"), link("disconnected"), link("connected")
    # A client that asks may see the offset before the simulated clock's being set is noticed: no kernel wakes anybody there.
    wrong = [f"{subject.name}: an alert nobody can explain" for t in alerts if not any(abs(t - s) < 60 for s in steps)]
    wrong += [f"{subject.name}: the clock was set and no alert was raised" for s in steps if s < end - 30 and not any(abs(t - s) < 30 for t in alerts)]
    wrong += [f"{subject.name}: the timer's link was not raised again" for d in drops if d < end - 60 and not any(0 < u - d < 60 for u in ups)]
    silent, outvoted, strings = when("source_silent"), when("source_outvoted"), link("stop")
    return (f"{len(steps)} times somebody set the clock ({len(alerts)} alerts), {len(drops)} dropped links, {len(silent)} servers "
            f"that died, {len(outvoted)} outvoted, {len(strings)} strings"), wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the figures into README.md")
    options = parser.parse_args()
    folder = Folder()
    disk, own_disk = small_disk(folder)
    try:
        subjects, faults, died = live(options, folder, disk, own_disk)
        rows, wrong, alerts, happened = judge(subjects, faults, died)
    finally:
        for process in folder.running:
            process.terminate()
        if own_disk:
            subprocess.run(["umount", "-l", disk], check=False)
        folder.close()
    text = "\n".join(["| daemon | Anonymous after 5 min | at the end | descriptors | threads | events |", "|---|---:|---:|---:|---:|---:|", *rows, "",
                      f"{options.minutes:g} minutes; injected: " + ", ".join(f"{k} {n}×" for k, n in sorted(faults.done.items())) +
                      f"; {len(alerts)} alerts for {len(faults.alarming)} faults that deserve one. In the simulated world: {happened}. "
                      f"Nothing died; `make soak MINUTES={options.minutes:g}`."])
    print(text)
    for sentence in wrong:
        print("WRONG  " + sentence)
    if options.write and not wrong:
        write_between("soak", text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

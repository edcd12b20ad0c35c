#!/usr/bin/env python3
"""What the daemon costs, beside Debian's chronyd: the same four servers, the same minutes, one run.

  footprint.py [--minutes 10] [--warm 16] [--write]

Neither touches this machine's clock: chronyd runs with -x, ours without the right to set it. --write puts the
table into README.md. Limits are those of the project; the exit code is 1 when one is exceeded.
"""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = ROOT + "/target/release/leadville-timesync"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "none")
# Nothing started here may set a clock, whatever it does.
BARRED = ["setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time"] if os.geteuid() == 0 else []


# Ours asks a server every so many seconds, chronyd every 2^8: the nearest that it knows.
INTERVAL = 300
POLL = 8


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Folder:
    """What runs here ends here."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="leadville-footprint-")
        self.running = []

    def start(self, command, **more):
        log = open(f"{self.path}/log-{len(self.running)}", "wb")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)
        self.running.append(process)
        return process

    def close(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.path, ignore_errors=True)


def measured(measure, *more):
    """What `measure` finds of the built program, in a folder of its own."""
    if not os.access(BINARY, os.X_OK):
        sys.exit(f"{BINARY} is not there: cargo build --release")
    folder = Folder()
    try:
        return measure(folder, *more)
    finally:
        folder.close()


def chronyd(folder, program, port, body, host="127.0.0.1"):
    conf = f"{folder.path}/chrony-{port}.conf"
    with open(conf, "w") as f:
        f.write(f"port {port}\nbindaddress {host}\nallow 127.0.0.0/8\ncmdport 0\nbindcmdaddress {folder.path}/commands-{port}/chronyd\n"
                f"pidfile {folder.path}/chrony-{port}.pid\n{body}\n")
    user = ["-u", "root"] if os.geteuid() == 0 else ["-U"]
    return folder.start([*BARRED, program, "-x", "-d", *user, "-f", conf])


def four_servers(folder, program):
    """Their addresses. chronyd knows a server by its address alone: of four ports on one it would ask the first and no other."""
    servers = [(f"127.0.0.{n}", free_port()) for n in range(1, 5)]
    for host, port in servers:
        chronyd(folder, program, port, "local stratum 1", host)
    return servers


def client(folder, program, servers, poll):
    """A chronyd that asks them every 2^poll seconds."""
    lines = "\n".join(f"server {host} port {port} iburst minpoll {poll} maxpoll {poll}" for host, port in servers)
    return chronyd(folder, program, 0, f"{lines}\ndriftfile {folder.path}/drift\nmakestep 1 3\nrtcsync")


def told_by(command):
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if answer.returncode != 0:
        sys.exit(f"{' '.join(command)}: {answer.stdout}{answer.stderr}")
    return answer.stdout


def asked_by_chronyd(folder, program):
    """Requests sent so far, by server."""
    chronyc = shutil.which("chronyc") or os.path.dirname(os.path.dirname(program)) + "/bin/chronyc"
    told = told_by([chronyc, "-h", f"{folder.path}/commands-0/chronyd", "-n", "ntpdata"])
    return [int(n) for n in re.findall(r"^Total TX +: (\d+)$", told, re.MULTILINE)]


def asked_by_ours(folder, name):
    return [server["requests"] for server in json.loads(told_by([BINARY, "--socket", f"{folder.path}/{name}/sock", "status", "--json"]))["servers"]]


def environment():
    """What the service is started with: no service manager of whoever calls us, and what its own unit says."""
    own = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "JOURNAL_STREAM", "WATCHDOG_USEC")}
    with open(ROOT + "/systemd/leadville-timesync.service") as unit:
        return own | dict(line.strip().split("=", 2)[1:] for line in unit if line.startswith("Environment="))


def ours(folder, name, servers, bridge, interval=f"{INTERVAL}s"):
    """The daemon with the default configuration but for servers, places and the missing right."""
    home = f"{folder.path}/{name}"
    os.makedirs(home + "/state", exist_ok=True)
    servers = ", ".join(f'{{ address = "{host}:{port}", operator = "operator {port}" }}' for host, port in servers)
    with open(home + "/timesync.toml", "w") as f:
        f.write(f'[ntp]\nservers = [{servers}]\nsync_interval = "{interval}"\n[clock]\nsteer = false\n[control]\ngroup = ""\n'
                f'[state]\ndirectory = "{home}/state"\n[bluetooth]\nenabled = {str(bridge).lower()}\n')
    return [*BARRED, BINARY, "--socket", home + "/sock", "run", "--config", home + "/timesync.toml"], environment()


def program_of(pid):
    """setpriv becomes the program: the pid stays."""
    return os.readlink(f"/proc/{pid}/exe")


def counts(pid):
    """CPU time (ns) and voluntary switches of all threads."""
    cpu = switches = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            cpu += int(f.read().split()[0])
        with open(f"/proc/{pid}/task/{task}/status") as f:
            switches += next(int(line.split()[1]) for line in f if line.startswith("voluntary_ctxt_switches"))
    return cpu, switches


def memory(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return {line.split(":")[0]: int(line.split()[1]) for line in f if line.split(":")[0] in ("Rss", "Pss", "Anonymous")}


def calls(folder, pid):
    """System calls in an hour, counted by strace over some minutes of their own."""
    out = f"{folder.path}/strace-{pid}"
    strace = folder.start(["strace", "-f", "-c", "-qq", "-o", out, "-p", str(pid)])
    return strace, out


def tallied(strace, out, minutes):
    strace.send_signal(signal.SIGINT)
    strace.wait(10)
    total = 0
    with open(out) as f:
        for line in f:
            if line.strip().endswith(" total"):
                total = int(line.split()[3])
    return total * 60 / minutes


class Startup:
    """From the start of the process to READY and to the first request, ms: medians of several."""

    def __init__(self, folder, times=15):
        self.ready, self.request = [], []
        for n in range(times):
            self.once(folder, n)

    def once(self, folder, n):
        place = f"{folder.path}/notify-{n}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            notify.bind(place)
            server.bind(("127.0.0.1", 0))
            server.settimeout(5)
            notify.settimeout(5)
            command, env = ours(folder, f"start-{n}", [server.getsockname()], False)
            began = time.monotonic()
            process = folder.start(command, env=dict(env, NOTIFY_SOCKET=place))
            while b"READY=1" not in notify.recv(4096):
                pass
            self.ready.append((time.monotonic() - began) * 1e3)
            server.recvfrom(64)
            self.request.append((time.monotonic() - began) * 1e3)
            process.send_signal(signal.SIGTERM)
            process.wait(5)


def size(*paths):
    return sum(os.path.getsize(p) for p in paths)


def installed(package):
    """Installed size in kB, as the package says (chrony's from the package list); None where it cannot be known."""
    built = sorted(glob.glob(f"{ROOT}/target/debian/{package}_*_{ARCH}.deb"), key=os.path.getmtime)
    ask = ["dpkg-deb", "-f", built[-1], "Installed-Size"] if built else ["apt-cache", "show", "--no-all-versions", package]
    out = subprocess.run(ask, capture_output=True, text=True).stdout
    sizes = re.findall(r"^(?:Installed-Size: )?(\d+)$", out, re.MULTILINE)
    return int(sizes[0]) if sizes else None


def measure(folder, options):
    program = subprocess.run([ROOT + "/tests/chronyd.sh"], check=True, capture_output=True, text=True).stdout.strip()
    servers = four_servers(folder, program)
    time.sleep(1)
    startup = Startup(folder)
    say(f"start: READY {statistics.median(startup.ready):.1f} ms, first request {statistics.median(startup.request):.1f} ms")
    subjects = {}
    homes = [(f"ours, bridge {'on, no adapter' if bridge else 'off'}", f"bridge-{bridge}", bridge) for bridge in (False, True)]
    for name, home, bridge in homes:
        # Its window of 96 samples, which takes two hours to fill, is filled at a quicker pace: that is the dearest.
        command, env = ours(folder, home, servers, bridge, interval="16s")
        subjects[name] = folder.start(command, env=env)
    subjects["chronyd"] = client(folder, program, servers, POLL)
    for minute in range(options.warm):
        say(f"settling: {options.warm - minute} min left")
        time.sleep(60)
        if minute + 1 == max(1, options.warm - 6):
            for name, home, bridge in homes:
                ours(folder, home, servers, bridge)
                subjects[name].send_signal(signal.SIGHUP)
    asked = {name: lambda home=home: asked_by_ours(folder, home) for name, home, bridge in homes}
    asked["chronyd"] = lambda: asked_by_chronyd(folder, program)
    # Before anybody asks them: what a client needs stays for a while.
    rows = {name: memory(p.pid) for name, p in subjects.items()}
    requests = {name: ask() for name, ask in asked.items()}
    time.sleep(2)
    before = {name: counts(p.pid) for name, p in subjects.items()}
    for minute in range(options.minutes):
        say(f"measuring: {options.minutes - minute} min left")
        time.sleep(60)
    for name, p in subjects.items():
        assert p.poll() is None, f"{name} ended"
        cpu, switches = (after - was for after, was in zip(counts(p.pid), before[name]))
        made = [after - was for after, was in zip(asked[name](), requests[name])]
        if len(made) != len(servers) or min(made) == 0:
            sys.exit(f"{name} has not asked all {len(servers)} servers: {made}")
        each, an_hour = cpu / 1e3 / sum(made), len(servers) * 3600 / (2**POLL if name == "chronyd" else INTERVAL)
        rows[name].update(cpu_us=each, cpu_ms=each / 1e3 * an_hour, requests=sum(made),
                          wakes=switches / options.minutes, threads=len(os.listdir(f"/proc/{p.pid}/task")), files=len(os.listdir(f"/proc/{p.pid}/fd")))
    traced = {name: calls(folder, p.pid) for name, p in subjects.items()}
    for minute in range(options.minutes):
        say(f"counting system calls: {options.minutes - minute} min left")
        time.sleep(60)
    for name, (strace, out) in traced.items():
        rows[name]["calls"] = tallied(strace, out, options.minutes)
    for name in subjects:
        mine = name.startswith("ours")
        rows[name]["binary"] = size(BINARY if mine else program) / 1024
        rows[name]["installed"] = installed("leadville-timesync" if mine else "chrony")
    return rows, startup


def told(value, digits, unit):
    return "–" if value is None else f"{value:.{digits}f} {unit}".strip()


def table(rows, startup, options):
    columns = list(rows)
    head = ["", *columns]
    units = [("resident", "Rss", "kB", 0), ("proportional", "Pss", "kB", 0), ("Anonymous", "Anonymous", "kB", 0),
             ("processor time of a request and its reply", "cpu_us", "µs", 0), ("processor time in an hour", "cpu_ms", "ms", 1), ("wake-ups in a minute", "wakes", "", 1),
             ("system calls in an hour", "calls", "", 0), ("threads", "threads", "", 0), ("descriptors", "files", "", 0),
             ("binary", "binary", "kB", 0), ("installed, all files", "installed", "kB", 0)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(columns)]
    for title, key, unit, digits in units:
        lines.append("| " + " | ".join([title, *(told(rows[c][key], digits, unit) for c in columns)]) + " |")
    lines.append("")
    lines.append(f"READY {statistics.median(startup.ready):.0f} ms after the process starts, first request after "
                 f"{statistics.median(startup.request):.0f} ms (medians of {len(startup.ready)} starts, address known). "
                 f"Four chronyd servers on loopback, each on an address of its own, asked by ours every {INTERVAL // 60} min, by chronyd every {2**POLL} s, "
                 f"{options.minutes} min after {options.warm} min of settling, in which ours filled its window at a request every 16 s. "
                 f"Processor time is that of the requests made ({', '.join(str(rows[c]['requests']) for c in columns)}), counted for an hour's; "
                 "`make bench-footprint`.")
    return "\n".join(lines)


def limits(rows, startup):
    off = rows["ours, bridge off"]
    peer = rows["chronyd"]
    return [(off["Anonymous"] <= 450, f"Anonymous {off['Anonymous']} kB of 450"),
            (off["Rss"] <= 4096, f"resident {off['Rss']} kB of 4096"),
            (off["wakes"] <= 5, f"{off['wakes']:.1f} wake-ups a minute of 5"),
            (off["cpu_ms"] <= peer["cpu_ms"], f"processor time {off['cpu_ms']:.1f} ms of chronyd's {peer['cpu_ms']:.1f}"),
            (off["binary"] <= 3072, f"binary {off['binary']:.0f} kB of 3072"),
            (statistics.median(startup.ready) <= 30, f"READY after {statistics.median(startup.ready):.1f} ms of 30"),
            (statistics.median(startup.request) <= 50, f"first request after {statistics.median(startup.request):.1f} ms of 50")]


def write_between(name, text):
    """README between the marks of that name."""
    path = ROOT + "/README.md"
    with open(path) as f:
        readme = f.read()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = readme.split(begin, 1)
    with open(path, "w") as f:
        f.write(before + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=10, help="how long is measured")
    parser.add_argument("--warm", type=int, default=16, help="how long they settle before")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    rows, startup = measured(measure, options)
    text = table(rows, startup, options)
    print(text)
    good = True
    for held, sentence in limits(rows, startup):
        print(("held      " if held else "EXCEEDED  ") + sentence)
        good &= held
    if options.write:
        write_between("footprint", text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

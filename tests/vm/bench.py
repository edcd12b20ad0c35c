"""A guest for one test: restored, the daemon installed, its clock watched from beside the daemon, true time from the host."""
import gzip
import json
import os
import socket
import subprocess
import time

import snap
from ntp_server import NtpServer, Servers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
UNIT = "leadville-timesync.service"
STATE = "/var/lib/leadville/timesync"
REFIDS = ("GPS", "PPS", "GLO", "DCFa", "MSF", "GAL")


class Wrong(AssertionError):
    """What the test saw is not what must be."""


def check(right, sentence):
    if not right:
        raise Wrong(sentence)


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def chronyd(folder, port, lines="local stratum 1"):
    """Debian's chronyd on 127.0.0.1:port, never touching this machine's clock (-x). The caller ends it."""
    program = subprocess.run([ROOT + "/tests/chronyd.sh"], check=True, capture_output=True, text=True).stdout.strip()
    path = f"{folder}/chrony-{port}.conf"
    with open(path, "w") as f:
        f.write(f"port {port}\nbindaddress 127.0.0.1\nallow 127.0.0.0/8\ncmdport 0\nbindcmdaddress /\n"
                f"pidfile {folder}/chrony-{port}.pid\n{lines}\n")
    user = ["-u", "root"] if os.getuid() == 0 else ["-U"]
    with open(f"{folder}/chrony-{port}.log", "w") as log:
        return subprocess.Popen([program, "-x", "-d", *user, "-f", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def unit_tests(folder):
    """The library's own tests as a stripped program for the guest: some of them move the clock they run on."""
    built = subprocess.run(["cargo", "test", "--locked", "--lib", "--no-run", "--message-format=json"], cwd=ROOT, check=True,
                           stdout=subprocess.PIPE, text=True, timeout=1800).stdout
    program = [m["executable"] for m in map(json.loads, built.splitlines()) if m.get("executable")][-1]
    stripped = folder + "/unit-tests"
    subprocess.run(["strip", "-o", stripped, program], check=True)
    return stripped


class Guest:
    """Use as a context. `servers` are ours on the host, `truth` one more that only judges."""

    def __init__(self, binary, ppm=0.0, count=4, real=None):
        self.binary, self.real = binary, real
        self.servers = [NtpServer(refid=REFIDS[i], ppm=ppm) for i in range(count)]
        self.truth = NtpServer(refid="TRUE", ppm=ppm)
        self.serving = Servers(self.truth, *self.servers)
        self.vm = None

    def __enter__(self):
        self.vm = snap.load()
        try:
            self.vm.put(HERE + "/guest/probe.py", "/root/probe.py")
            self.run("systemctl stop systemd-timesyncd; systemctl mask --runtime systemd-timesyncd", check=False)
            self.probe("nominal")
        except BaseException:               # __exit__ is not called then
            self.vm.stop()
            self.serving.stop()
            raise
        return self

    def __exit__(self, _, error, __):
        if error:
            error.evidence = self.evidence()
        self.vm.stop()
        self.serving.stop()

    def run(self, command, check=True, timeout=120):
        rc, out, err = self.vm.run(command, timeout=timeout)
        if check and rc:
            raise Wrong(f"exit code {rc} from `{command}`: {out} {err}".strip())
        return out

    def probe(self, *words):
        return json.loads(self.run("python3 /root/probe.py " + " ".join(map(str, words))))

    # The clock

    def set_clock(self, wrong_by):
        """The guest's clock to the truth plus `wrong_by` seconds."""
        behind = self.probe("offset", self.truth.port, 12)["offset_ns"] / 1e9
        self.probe("shift", behind + wrong_by)

    def watch(self):
        """From now on every step is seen, and the clock compared with the truth twice a second."""
        self.vm.run(f"rm -f /run/watch.log; (setsid python3 /root/probe.py watch /run/watch.log {self.truth.port} "
                    "< /dev/null > /run/watch.err 2>&1 &)")
        self.until(lambda: self.vm.run("test -s /run/watch.log")[0] == 0, 30, "the guest's watch has begun")

    def log(self):
        text = self.vm.get("/run/watch.log").decode()
        lines = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]
        for line in lines:
            line["s"] = (line["raw_ns"] - lines[0]["raw_ns"]) / 1e9
        return lines

    def steps(self, log=None):
        """Jumps of realtime − raw since the watch began: (s since then, amount in s)."""
        return [(line["s"], line["step_ns"] / 1e9) for line in log or self.log() if line["at"] == "step"]

    def errors(self, log=None, window=8):
        """(s since the watch began, true − ours in ms), once a second, each by the quickest of the ≥ 8 exchanges around it."""
        log = log or self.log()
        exchanges = [line for line in log if line["at"] == "exchange"]
        result = []
        for line in log:
            if line["at"] != "tick":
                continue
            near = [x for x in exchanges if abs(x["s"] - line["s"]) <= window]
            if len(near) >= 8:
                best = min(near, key=lambda x: x["delay_ns"])
                # Between that exchange and now the truth went on at the rate of raw, and by the servers' own rate error.
                went = (line["raw_ns"] - best["raw_ns"]) * self.truth.ppm * 1e-6
                result.append((line["s"], (best["truth_minus_raw_ns"] + went - line["diff_ns"]) / 1e6))
        return result

    def error(self):
        """true − ours now, ms, by the quickest of 12 exchanges."""
        return self.probe("offset", self.truth.port, 12)["offset_ns"] / 1e6

    def now(self):
        """Seconds since the watch began, up to a second too few: the watch's last line."""
        return self.log()[-1]["s"]

    # The daemon

    def install(self, extra="", ntp="", drop_in="", sync_interval="16s"):
        servers = [f'    {{ address = "10.0.2.2:{s.port}", operator = "operator {i}" }},' for i, s in enumerate(self.servers)]
        if self.real:
            servers.append(f'    {{ address = "10.0.2.2:{self.real}", operator = "chrony" }},')
        config = '[ntp]\nservers = [\n' + "\n".join(servers) + f'\n]\nsync_interval = "{sync_interval}"\ntimeout = "2s"\n{ntp}\n{extra}\n'
        put = self.vm.put
        self.put_program(self.binary, "/usr/bin/leadville-timesync")
        put(config.encode(), "/etc/leadville/timesync.toml")
        ours = ROOT + "/systemd/"
        for name, target in ((UNIT, f"/etc/systemd/system/{UNIT}"),
                             ("leadville-timesync.sysusers", "/usr/lib/sysusers.d/leadville-timesync.conf"),
                             ("leadville-timesync.tmpfiles", "/usr/lib/tmpfiles.d/leadville-timesync.conf")):
            put(ours + name, target, 0o644)
        if drop_in:
            put(drop_in.encode(), f"/etc/systemd/system/{UNIT}.d/test.conf")
        self.run("systemd-sysusers /usr/lib/sysusers.d/leadville-timesync.conf && "
                 "systemd-tmpfiles --create /usr/lib/tmpfiles.d/leadville-timesync.conf && systemctl daemon-reload")

    def put_program(self, path, target):
        with open(path, "rb") as f:             # the way into the guest is slow
            self.vm.put(gzip.compress(f.read(), 6), "/run/program.gz")
        self.run(f"gunzip -c /run/program.gz > {target} && chmod 755 {target} && rm /run/program.gz")

    def start(self):
        """systemctl start returns when the daemon has said READY=1."""
        self.run(f"systemctl start {UNIT}", timeout=60)

    def show(self, *names):
        out = self.run(f"systemctl show {UNIT} -p {','.join(names)}")
        return dict(line.split("=", 1) for line in out.splitlines())

    def status(self):
        rc, out, err = self.vm.run("leadville-timesync status --json")
        try:
            return json.loads(out)
        except ValueError:
            raise Wrong(f"`status --json` (exit code {rc}) is not JSON: {out} {err}") from None

    def until(self, condition, seconds, sentence, every=0.7):
        """Asks until it is so; returns how long that took, s."""
        began = time.monotonic()
        while True:
            last = condition()
            if last:
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise Wrong(f"not within {seconds} s: {sentence}")
            time.sleep(every)

    def restarted(self, pid, seconds=40):
        """Until systemd has started it again and it has said READY=1; how long that took, s."""
        def running():
            shown = self.show("SubState", "MainPID")
            return shown["SubState"] == "running" and shown["MainPID"] not in ("0", pid)
        return self.until(running, seconds, "systemd has started it again")

    def settle(self, seconds=60):
        """Started with a clock that is nearly right, until it is synchronised and settled."""
        def settled():
            status = self.status()
            return status["settled"] and status["state"] == "synchronised"
        return self.until(settled, seconds, "the daemon is synchronised and settled")

    def journal(self):
        out = self.run(f"journalctl -q -u {UNIT} -o json --no-pager", timeout=120)
        return [json.loads(line) for line in out.splitlines()]

    def evidence(self):
        """Everything one wants to see after a failure."""
        parts = []
        for command in (f"journalctl -q -u {UNIT} -o short-monotonic --no-pager | tail -60", "leadville-timesync status",
                        "leadville-timesync sources", f"systemctl status {UNIT} --no-pager -n 0", "cat /etc/leadville/timesync.toml",
                        f"ls -la {STATE}; cat {STATE}/* | head -c 3000", "python3 /root/probe.py kernel",
                        "grep -a step /run/watch.log; tail -2 /run/watch.log"):
            try:
                _, out, err = self.vm.run(command, timeout=30)
                parts.append(f"$ {command}\n{out}{err}".rstrip())
            except Exception as error:          # the machine itself may be what failed
                parts.append(f"$ {command}\n{error!r}")
        return "\n".join("    | " + line for line in "\n".join(parts).splitlines())


class HostClock:
    """This machine's own clock, which no test may touch: how it stood, and whether it went on as it was."""

    def __init__(self):
        self.began = self.read()

    @staticmethod
    def read():
        out = subprocess.run(["python3", HERE + "/guest/probe.py", "kernel"], check=True, capture_output=True, text=True).stdout
        return json.loads(out)

    def verdict(self):
        then, now = self.began, self.read()
        elapsed = (now["raw_ns"] - then["raw_ns"]) / 1e9
        expected = elapsed * then["frequency_ppm"] * 1e-6
        moved = (now["realtime_minus_raw_ns"] - then["realtime_minus_raw_ns"]) / 1e9
        # Another program may discipline this machine's clock (by ppm); a test that reached it would show as ms or 40 ppm.
        change = now["frequency_ppm"] - then["frequency_ppm"]
        figures = (f"over {elapsed:.0f} s its frequency changed by {change:+.3f} ppm, realtime − raw went {1e3 * (moved - expected):+.3f} ms "
                   f"beside it, status {then['status']:#x} → {now['status']:#x}")
        check(abs(change) < 5 and now["tick"] == then["tick"] and now["status"] == then["status"]
              and abs(moved - expected) < 0.002 + 20e-6 * elapsed, figures)
        return figures


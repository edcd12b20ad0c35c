"""A Debian machine that gets the package: restored from the snapshot, or booted cold from a disk of its own."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
VM = ROOT + "/tests/vm"
sys.path.insert(0, VM)
import snap  # noqa: E402
import vm as qemu  # noqa: E402
from bench import UNIT, Guest, check  # noqa: E402,F401

TESTS = []
CONFIG = "/etc/leadville/timesync.toml"
NAMES = ("north", "south", "east", "west")
DEAD_DNS = "nameserver 10.0.2.77"           # nobody answers there


def test(seconds):
    """Registers a test with about how long it takes, s."""
    def register(function):
        TESTS.append((function.__name__.replace("_", " "), seconds, function))
        return function
    return register


class Disk:
    """A disk that keeps what is written, on top of the booted machine's; for power cuts."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="leadville-disk-", dir=os.environ.get("VM_TMP"))
        self.base = snap.folder("trixie")
        for name in ("vmlinuz", "initrd.img"):
            os.symlink(f"{self.base}/{name}", f"{self.folder}/{name}")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{self.base}/root.qcow2", "-F", "qcow2",
                        self.folder + "/root.qcow2"], check=True)

    def restore(self):
        machine = qemu.VM(self.folder, persist=True, incoming=f"file:{self.base}/state", **snap.MACHINE).start()
        return awake(machine)

    def boot(self, rtc=None, network=True):
        machine = qemu.VM(self.folder, persist=True, rtc=rtc and f"base={rtc},clock=vm", **snap.MACHINE).start()
        if not network:
            machine.qmp("set_link", name="n0", up=False)
        return machine

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def awake(machine):
    machine._still_alive()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            status = machine.qmp("query-status")["return"]["status"]
        except OSError:
            status = None
        if status == "paused":
            machine.qmp("cont")
        if status in ("paused", "running"):
            machine.hello = True
            return machine
        time.sleep(0.05)
    raise RuntimeError("the machine was not restored")


class Machine(Guest):
    """Like the guest of the core's tests, but as Debian left it: timesyncd is active, and only the package changes that."""

    def __init__(self, deb, disk=None):
        super().__init__(deb, real=None)
        self.deb, self.disk = deb, disk

    def __enter__(self):
        self.vm = self.disk.restore() if self.disk else snap.load()
        self.vm.put(VM + "/guest/probe.py", "/root/probe.py")
        self.put_deb(self.deb)
        self.set_clock(0)
        return self

    def put_deb(self, path, name="/root/x.deb"):
        self.vm.put(path, name, 0o644)

    # Installing

    def apt(self, words, timeout=300):
        return self.run(f"DEBIAN_FRONTEND=noninteractive apt-get -y -q {words} 2>&1", timeout=timeout)

    def configuration(self, names=False, more=""):
        servers = [f"{NAMES[i]}.range.test:{s.port}" if names else f"10.0.2.2:{s.port}" for i, s in enumerate(self.servers)]
        lines = "\n".join(f'    {{ address = "{a}", operator = "{n}" }},' for a, n in zip(servers, NAMES))
        return f'[ntp]\nservers = [\n{lines}\n]\nsync_interval = "16s"\ntimeout = "2s"\n{more}'

    def configure(self, **how):
        """The package keeps a configuration it finds; ours points to the servers on the host."""
        self.vm.put(self.configuration(**how).encode(), CONFIG)

    def dns(self, works):
        """Names are known, or asked of a server that does not answer."""
        hosts = "127.0.0.1 localhost vm\n" + "".join(f"10.0.2.2 {n}.range.test\n" for n in NAMES if works)
        self.vm.put(hosts.encode(), "/etc/hosts")
        self.run(f"rm -f /etc/resolv.conf; printf '{DEAD_DNS}\\n' > /etc/resolv.conf")

    def install_and_settle(self):
        self.configure()
        self.apt("-o Dpkg::Options::=--force-confold install /root/x.deb")
        return self.settle(90)

    # What systemd knows

    def active(self, unit=UNIT):
        return self.vm.run(f"systemctl is-active {unit}")[1].strip()

    def timedatectl(self):
        return dict(line.split("=", 1) for line in self.run("timedatectl show").splitlines())

    def story(self):
        """The daemon's journal of this boot, as a person reads it."""
        return self.run(f"journalctl -q -b -u {UNIT} -o cat --no-pager").splitlines()

    def lines(self, unit, text):
        """Monotonic times, s, of the journal's lines of this boot with that text."""
        out = self.run(f"journalctl -q -b {unit} -o short-monotonic --no-pager | grep -F '{text}' || true")
        return [float(line[1:line.index("]")]) for line in out.splitlines() if line.startswith("[")]

    def own_address(self):
        """The IPv4 address by which the network reaches it."""
        device = "$(ip -4 route show default | sed 's/.*dev \\([^ ]*\\).*/\\1/')"
        return self.run(f"ip -4 -o addr show dev {device} | sed 's/.*inet \\([^/]*\\).*/\\1/'").strip()

    def get(self, url):
        """(status, body) of a page, asked in the guest; status 0 and why if nobody answers."""
        out = self.run(f"""python3 - <<'ASK'
import json, urllib.request, urllib.error
try:
    with urllib.request.urlopen("{url}", timeout=10) as page:
        print(json.dumps([page.status, page.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
except OSError as error:
    print(json.dumps([0, str(error)]))
ASK""")
        return tuple(json.loads(out))

    # Power

    def power_cut(self):
        self.vm.process.kill()
        self.vm.process.wait()
        self.vm.stop()

    def boot(self, rtc=None, network=True):
        self.vm = self.disk.boot(rtc, network)
        self.vm.wait_agent(400)

    def network(self, up):
        self.vm.qmp("set_link", name="n0", up=up)

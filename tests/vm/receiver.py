"""A GPS receiver on a serial adapter, Debian's gpsd, and the daemon that follows it: what the issue calls a source beside us."""
import glob
import json
import statistics
import time

from bench import HERE, check
from vm import DIR

TESTS = []
LINKS = {True: "/run/chrony.ttyUSB0.sock", False: "/run/chrony.clk.ttyUSB0.sock"}
CONFIG = '[ntp]\nenabled = false\n[gps]\nsock = "/run/leadville/gps.sock"\nuncertainty = "{worth}"\n'


def test(seconds):
    """Registers a test with about how long it takes, s."""
    def register(function):
        TESTS.append((function.__name__.replace("_", " "), seconds, function))
        return function
    return register


class Range:
    """A guest with gpsd, a receiver plugged in, and the daemon with nothing else to go by."""

    def __init__(self, guest):
        self.guest, self.run, self.until = guest, guest.run, guest.until

    def gpsd(self):
        debs = sorted(glob.glob(DIR + "/gpsd-trixie/*.deb"))
        check(debs, "gpsd is not there: tests/vm/setup.sh")
        self.run("systemctl mask 'gpsdctl@.service'; mkdir -p /root/debs")
        for deb in debs:
            self.guest.vm.put(deb, "/root/debs/" + deb.rsplit("/", 1)[1], 0o644)
        self.run("printf 'START_DAEMON=\"true\"\\nUSBAUTO=\"false\"\\nDEVICES=\"/dev/ttyUSB0\"\\nGPSD_OPTIONS=\"-n\"\\n' > /etc/default/gpsd; "
                 "DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /root/debs/*.deb", timeout=300)
        self.run("systemctl stop gpsd", check=False)
        return self.run("gpsd -V").split()[1]

    def plug(self, *options):
        with open(HERE + "/guest/receiver.py", "rb") as f:
            self.guest.vm.put(f.read(), "/root/receiver.py")
        self.run("modprobe -a vhci_hcd pl2303 pps_ldisc; rm -f /run/receiver.ctl; mkfifo /run/receiver.ctl")
        self.run("(setsid python3 /root/receiver.py --ctl /run/receiver.ctl " + " ".join(options)
                 + " < /dev/null > /run/receiver.log 2>&1 & echo $! > /run/receiver.pid)")
        self.until(lambda: self.guest.vm.run("test -c /dev/ttyUSB0")[0] == 0, 60, "the kernel has found the adapter")
        (_, self.ahead), = self.log("READY")

    def unplug(self):
        self.run("kill $(cat /run/receiver.pid)")

    def tell(self, line):
        self.run(f"timeout 10 sh -c 'echo {line} > /run/receiver.ctl'")

    def begin(self, wrong, *plugged, pulse, worth):
        """A receiver at a clock that is wrong by so much, the daemon and gpsd, whose version this is."""
        version = self.gpsd()
        self.guest.install()
        self.guest.set_clock(0)
        self.plug(*plugged)
        self.guest.set_clock(wrong)
        self.follow(pulse, worth)
        return version

    def follow(self, pulse, worth):
        """The daemon, then gpsd, which looks for our socket when it starts."""
        self.guest.vm.put(CONFIG.format(worth=worth).encode(), "/etc/leadville/timesync.toml")
        self.run("rm -f /run/chrony.*; ln -s /run/leadville/gps.sock " + LINKS[pulse])
        self.run("systemctl restart leadville-timesync", timeout=60)
        self.run("systemctl restart gpsd", timeout=60)

    def log(self, what):
        lines = (line.split() for line in self.run("cat /run/receiver.log").splitlines())
        return [[int(word) for word in words[1:]] for words in lines if words[:1] == [what]]

    def errors(self, last=12):
        """What the daemon makes of the instants of the last pulses, against their true second, µs; and its bound."""
        pulses = self.log("PULSE")[-last:]
        errors = []
        for second, before, after in pulses:
            said = json.loads(self.run(f"leadville-timesync stamp --json --raw-ns {(before + after) // 2}"))
            errors.append((said["utc_ns"] - second * 10**9) / 1e3)
        return errors, said["bound_us"]

    def words(self):
        return self.guest.vm.run("leadville-timesync status")[1]

    def journal(self):
        return self.run("journalctl -q -u leadville-timesync -o cat --no-pager")

    def synchronised(self, seconds, count=3):
        def so():
            status = self.guest.status()
            return status["state"] == "synchronised" and status["sync_count"] >= count
        return self.until(so, seconds, f"the daemon follows the receiver; gpsd: {self.seen()}")

    def seen(self):
        return self.guest.vm.run("journalctl -q -u gpsd -o cat --no-pager | tail -5; ls -l /run/chrony* /dev/pps*")[1]


@test(330)
def gpsd_with_a_pulse_is_followed_within_its_bound_over_restarts_and_what_ails_the_receiver_is_said(bench):
    with bench.guest(real=False) as guest:
        r = Range(guest)
        version = r.begin(-40, pulse=True, worth="1ms")
        took = r.synchronised(120)
        check(abs(guest.error()) < 50, f"{guest.error():.1f} ms wrong")
        r.synchronised(180, 6)
        # An emulated processor that waits for others takes some interrupts milliseconds late, and the bound says so.
        r.until(lambda: guest.status()["error_bound_us"] < 8000, 240, "a bound below 8 ms", every=3)
        errors, bound = r.errors()
        middle = statistics.median(errors)
        check(bound >= abs(middle), f"{errors} µs, bound {bound} µs")
        check(bound >= 1000, f"a bound of {bound} µs for a receiver of 1 ms")
        status = guest.status()
        source = status["servers"][0]
        check(source["name"] == "GPS" and source["role"] == "selected" and not status["verified"], str(source))
        told = [f"gpsd {version}: in sync {took:.0f} s after its start, pulses dated {middle:+.0f} µs "
                f"({min(errors):+.0f} to {max(errors):+.0f}) of their second, bound {bound:.0f} µs"]

        # We are restarted, and gpsd goes on with the socket that it has.
        r.run("systemctl restart leadville-timesync", timeout=60)
        r.synchronised(120, 2)

        # gpsd is restarted.
        count = guest.status()["sync_count"]
        r.run("systemctl restart gpsd", timeout=60)
        r.until(lambda: guest.status()["sync_count"] > count + 1, 90, "a restarted gpsd is heard")

        # The receiver is a second off all at once.
        guest.watch()
        r.tell("off 1")
        r.until(lambda: guest.status()["state"] == "frozen", 90, "a jump by a second is noticed")
        said = r.words().splitlines()[0]
        check("jumped by" in said and "jumped by" in r.journal(), said)
        told.append(f"a second off: “{said}”")
        r.tell("off 0")
        r.until(lambda: guest.status()["state"] == "synchronised", 90, "the right second again")
        check(not guest.steps(), f"the clock was stepped: {guest.steps()}")

        # Unplugged, and plugged in again.
        r.unplug()
        silent = r.until(lambda: guest.status()["servers"][0]["role"] == "unreachable", 150, "an unplugged receiver is named", every=2)
        said = next(line.strip() for line in r.words().splitlines() if "GPS" in line)
        check("gpsd has sent no time" in said and "GPS is silent" in r.journal(), said)
        told.append(f"unplugged: named {silent:.0f} s later")
        count = guest.status()["sync_count"]
        r.plug(f"--utc-minus-raw {r.ahead}")
        r.run("systemctl restart gpsd", timeout=60)
        r.until(lambda: guest.status()["sync_count"] > count + 1, 120, "a receiver that is plugged in again is heard, once gpsd is restarted")
        check("GPS is heard again" in r.journal(), "nothing says that the receiver is heard again")
        check(abs(guest.error()) < 50, f"{guest.error():.1f} ms wrong after all this")
        return "; ".join(told)


@test(200)
def gpsd_without_a_pulse_is_followed_within_what_serial_seconds_are_worth(bench):
    with bench.guest(real=False) as guest:
        r = Range(guest)
        version = r.begin(-3600, "--no-pulse", "--late", "0.35", pulse=False, worth="500ms")
        took = r.synchronised(150)
        error, status = guest.error(), guest.status()
        bound = status["error_bound_us"] / 1e3
        check(bound >= abs(error), f"{error:.0f} ms wrong and {bound:.0f} ms stated")
        check(100 < abs(error) < 500 and bound < 1500, f"{error:.0f} ms wrong, {bound:.0f} ms stated")
        # A receiver whose weeks have rolled over.
        r.tell(f"off {-1024 * 7 * 86400}")
        guest.watch()
        time.sleep(60)
        check(not guest.steps(), f"the clock was stepped: {guest.steps()}")
        after, source = guest.error(), guest.status()["servers"][0]
        check(abs(after - error) < 100, f"{error:.0f} ms wrong before, {after:.0f} ms after 1024 weeks were lost")
        known = {"selected": "put right by gpsd", "rejected": "refused"}.get(source["role"])
        check(known, f"after 1024 weeks were lost: {source}")
        return f"gpsd {version}: in sync after {took:.0f} s, {error:+.0f} ms wrong, {bound:.0f} ms stated; 1024 weeks back: {known}"

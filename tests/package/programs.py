"""What the package brings beside the daemon: Python, the page, time for other computers; and that each is off until asked for."""
import json

from bench import Wrong
from machine import CONFIG, ROOT, UNIT, Machine, check, test

PAGE = "leadville-timesync-web.service"
SOCKET = "leadville-timesync.socket"
DROP_IN = "/usr/share/leadville-timesync/drop-in"
# A program of the range with a clock module of its own, as it may stand in a virtual environment.
FORMER = {
    "impact_bridge/__init__.py": "",
    "impact_bridge/time_sync.py": "class TimeSynchronizer:\n    pass\n",
    "impact_bridge/bridge.py": """import asyncio, json, sys
from impact_bridge.time_sync import TimeSynchronizer
said = {"module": TimeSynchronizer.__module__, "virtual": sys.prefix != sys.base_prefix}
if hasattr(TimeSynchronizer, "force_ntp_sync"):
    clock = TimeSynchronizer()
    said["answered"] = asyncio.run(clock.force_ntp_sync())
    status = clock.get_sync_status().to_dict()
    said.update(quality=status["sync_quality"], utc=clock.get_corrected_time().timestamp())
print(json.dumps(said))
""",
}
SERVICE = f"""[Service]
Type=oneshot
DynamicUser=yes
WorkingDirectory=/opt/range
Environment=PYTHONPATH={DROP_IN}
SupplementaryGroups=leadville
ExecStart=/opt/range/venv/bin/python3 -m impact_bridge.bridge
"""


@test(90)
def programs_in_python_find_the_module_and_the_former_system_gets_ours_only_where_it_is_asked_for(bench):
    with Machine(bench.deb) as m:
        m.install_and_settle()
        asked = json.loads(m.run("""cd / && python3 -c '
import json, time, leadville_timesync as lt
seen = lt.stamp(time.monotonic_ns())
print(json.dumps([lt.status()["state"], seen.utc_ns, seen.bound_us, time.time_ns(), lt.__file__]))'"""))
        state, utc, bound, now, where = asked
        check(state == "synchronised" and abs(utc - now) < 2e9 and 0 < bound < 20_000, f"the module says {asked}")
        check(where.startswith("/usr/lib/python3/dist-packages/"), f"the module was found at {where}")
        alone = m.run("cd / && python3 -c 'from impact_bridge.time_sync import TimeSynchronizer as T; print(T.__module__)'").strip()
        check(alone == "leadville_timesync.time_sync", f"without the former system its name means {alone}")

        for name, text in FORMER.items():
            m.vm.put(text.encode(), "/opt/range/" + name)
        m.run("python3 -m venv --without-pip /opt/range/venv", timeout=300)
        bridge = "/opt/range/venv/bin/python3 -m impact_bridge.bridge"
        untouched = json.loads(m.run(f"cd /opt/range && {bridge}"))
        check(untouched["module"] == "impact_bridge.time_sync", f"without being asked its own clock was replaced: {untouched}")
        m.vm.put(SERVICE.encode(), "/etc/systemd/system/range.service")
        m.run("systemctl daemon-reload; systemctl start range", timeout=120)
        said = json.loads(m.run("journalctl -q -u range -o cat | grep '^{'").splitlines()[-1])
        check(said["module"] == "leadville_timesync.time_sync" and said["virtual"] and said["answered"], f"with the drop-in: {said}")
        check(said["quality"] in ("excellent", "good"), f"with the drop-in: {said}")
        hand = json.loads(m.run(f"cd /opt/range && PYTHONPATH={DROP_IN} {bridge}"))
        check(hand["answered"] and abs(hand["utc"] - int(m.run("date +%s"))) < 10, f"by hand: {hand}")
        m.run("test ! -e /opt/range/impact_bridge/ntp_client.py")
        return (f"module, bound {bound / 1e3:.1f} ms; a service in a virtual environment has ours by PYTHONPATH and the group, "
                f"quality {said['quality']}, and its own without")


def enabled(m, unit):
    return m.vm.run(f"systemctl is-enabled {unit}")[1].strip()


@test(110)
def the_page_is_off_until_enabled_answers_at_the_address_it_was_given_and_has_no_rights(bench):
    with Machine(bench.deb) as m:
        m.install_and_settle()
        check((enabled(m, PAGE), m.active(PAGE)) == ("disabled", "inactive"), f"after the installation: {enabled(m, PAGE)}, {m.active(PAGE)}")
        check(m.get("http://127.0.0.1:8460/")[0] == 0, "a page is served that nobody asked for")
        said = m.run("leadville-timesync web enable", timeout=60)
        check("http://127.0.0.1:8460/" in said, said)
        code, page = m.get("http://127.0.0.1:8460/")
        check(code == 200 and "<html" in page.lower(), f"{code} {page[:200]}")
        own = m.own_address()
        check(m.get(f"http://{own}:8460/")[0] == 0, "enabled for this computer alone, the network sees it too")

        m.run(f"leadville-timesync web enable --address {own}", timeout=60)
        m.until(lambda: m.get(f"http://{own}:8460/")[0] == 200, 20, "the page answers at the new address")
        status = json.loads(m.get(f"http://{own}:8460/api/status")[1])
        check(status["state"] == "synchronised" and status["settled"], f"/api/status: {status}")
        metrics = m.get(f"http://{own}:8460/metrics")[1]
        check("leadville_timesync_" in metrics and metrics.endswith("# EOF\n"), metrics[-200:])
        check((enabled(m, PAGE), m.active(PAGE)) == ("enabled", "active"), f"{enabled(m, PAGE)}, {m.active(PAGE)}")
        pid = m.run(f"systemctl show {PAGE} -p MainPID --value").strip()
        proc = dict(line.split(":", 1) for line in m.run(f"cat /proc/{pid}/status").splitlines() if ":" in line)
        powers = [proc[name].strip() for name in ("CapEff", "CapBnd", "CapPrm", "CapAmb")]
        check(set(powers) == {"0" * 16} and proc["Uid"].split()[0] != "0" and proc["Seccomp"].strip() == "2", f"its rights: {proc}")
        # Of the group that may command the daemon it may only ask.
        check(proc["Uid"].split()[0] == m.run("id -u leadville-timesync-web").strip(), f"its user: {proc['Uid']}")
        there = "setpriv --reuid leadville-timesync-web --regid leadville-timesync-web --groups leadville leadville-timesync"
        m.run(f"{there} status")
        code, said = m.vm.run(f"{there} lock 2>&1")[:2]
        check(code == 1 and "a phone shows, and nothing else" in said, f"the page's user holds the clock still: {code} {said}")

        exposure = float(m.run(f"systemd-analyze security --no-pager {PAGE} | tail -1").split(":")[1].split()[0])
        check(exposure <= 1.9, f"exposure {exposure}")

        # The access point's address, before the access point is up.
        said = m.run("leadville-timesync web enable --address 192.168.44.1", timeout=60)
        check("not an address of this computer now" in said, said)
        m.run("ip link add ap0 type dummy && ip addr add 192.168.44.1/24 dev ap0 && ip link set ap0 up")
        took = m.until(lambda: m.get("http://192.168.44.1:8460/")[0] == 200, 40, "the page comes when its address does")
        # Without the daemon it says so and goes on.
        m.run(f"systemctl stop {UNIT}")
        m.until(lambda: "error" in m.get("http://192.168.44.1:8460/api/status")[1], 20, "the page says that no daemon answers")
        m.run(f"systemctl start {UNIT}")
        m.until(lambda: '"state"' in m.get("http://192.168.44.1:8460/api/status")[1], 20, "the page finds the daemon again")

        m.run("dpkg -i /root/x.deb", timeout=300)
        check(m.active(PAGE) == "active" and m.get("http://192.168.44.1:8460/")[0] == 200, "after an upgrade the page is gone")
        m.run("leadville-timesync web disable", timeout=60)
        check((enabled(m, PAGE), m.active(PAGE)) == ("disabled", "inactive"), f"after disable: {enabled(m, PAGE)}, {m.active(PAGE)}")
        m.run("test ! -e /etc/leadville/timesync-web.env")
        return f"off, on at 127.0.0.1, at {own}, at an address {took:.0f} s after it came; no capability, exposure {exposure}; upgraded; off"


@test(110)
def time_is_served_at_port_123_by_the_socket_unit_without_a_further_right_and_only_when_enabled(bench):
    with Machine(bench.deb) as m:
        m.install_and_settle()
        check((enabled(m, SOCKET), m.active(SOCKET)) == ("disabled", "inactive"), f"after the installation: {enabled(m, SOCKET)}, {m.active(SOCKET)}")
        # Another computer of the range: a network namespace beside the daemon's.
        m.run("ip netns add range && ip link add r0 type veth peer name r1 netns range && ip addr add 192.168.77.1/24 dev r0 && "
              "ip link set r0 up && ip -n range addr add 192.168.77.2/24 dev r1 && ip -n range link set r1 up && ip -n range link set lo up")
        query = "ip netns exec range leadville-timesync query 192.168.77.1 --count 2 --timeout 1s --json"
        rc, out, _ = m.vm.run(query)
        check(rc != 0, f"time is served though nobody asked for it: {out}")
        m.configure(more="[serve]\nenabled = true\n")
        m.run(f"systemctl enable {SOCKET} && systemctl restart {UNIT}", timeout=60)
        m.settle()
        seen = {}

        def answered():
            seen["rc"], seen["out"], seen["err"] = m.vm.run(query)
            return seen["rc"] == 0
        m.until(answered, 30, f"the other computer gets the time: {seen}")
        heard = json.loads(seen["out"])
        strata = [server["stratum"] for server in heard["servers"]]
        check(strata == [2] and abs(heard["offset_us"]) < 20_000, f"the other computer heard {heard}")
        pid = m.show("MainPID")["MainPID"]
        powers = m.run(f"grep ^Cap /proc/{pid}/status").split()[1::2]
        check({int(p, 16) for p in powers} <= {0, 1 << 25}, f"it has further rights: {powers}")
        served = m.status()["serve"]
        check(served["answered"] >= 2 and served["stratum"] == 2 and len(served["listen"]) == 2, f"status says {served}")
        m.run("dpkg -i /root/x.deb", timeout=300)
        m.settle()
        m.until(answered, 30, "served after an upgrade too")
        m.run(f"systemctl disable --now {SOCKET}")
        check(m.active() == "active", "without its socket the daemon ended")
        return f"another computer asked 192.168.77.1 and is {heard['offset_us'] / 1e3:+.1f} ms from its stratum 2; again after an upgrade; off"


@test(150)
def a_light_says_how_the_clock_is_under_the_hardened_service_and_goes_back_to_what_it_did(bench):
    """A key's light of the machine's keyboard stands for the board's."""
    light = "input0::scrolllock"
    at = f"/sys/class/leds/{light}"
    with Machine(bench.deb) as m:
        def shown():
            trigger = m.run(f"cat {at}/trigger").split("[")[1].split("]")[0]
            if trigger == "timer":
                return trigger, *map(int, m.run(f"cat {at}/delay_on {at}/delay_off").split())
            return trigger, int(m.run(f"cat {at}/brightness"))

        def shows(what, seconds):
            try:
                return m.until(lambda: shown() == what, seconds, "")
            except Wrong:
                raise Wrong(f"not within {seconds} s: the light shows {what}; it shows {shown()}") from None
        m.serving.set(on=False)
        m.vm.put((f'led = "{light}"\n' + m.configuration()).encode(), CONFIG)
        before = shown()
        m.apt("-o Dpkg::Options::=--force-confold install /root/x.deb")
        for name, target in (("leadville-led.rules", "/etc/udev/rules.d/60-leadville-led.rules"),
                             ("leadville-led.conf", f"/etc/systemd/system/{UNIT}.d/led.conf")):
            with open(f"{ROOT}/config/examples/{name}") as f:
                text = f.read().replace('"ACT"', f'"{light}"').replace("platform/leds", "platform/i8042")
            m.vm.put(text.encode(), target)
        m.run(f"udevadm control --reload && udevadm trigger -s leds && udevadm settle && systemctl daemon-reload && systemctl restart {UNIT}", timeout=60)
        unknown = shows(("timer", 125, 125), 30)
        m.serving.set(on=True)
        m.settle(90)
        verified = shows(("none", 1), 30)
        m.serving.set(on=False)
        carried = shows(("timer", 1000, 1000), 200)
        m.run(f"systemctl stop {UNIT}")
        check(shown()[0] == before[0], f"before {before}, afterwards {shown()}")
        return f"blinks fast {unknown:.0f} s after the start, is lit {verified:.0f} s after the servers, blinks slowly {carried:.0f} s after the last; then “{before[0]}” again"

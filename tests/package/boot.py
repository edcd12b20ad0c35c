"""Cold boots of a Pi without a clock chip: wrong hardware clocks, late networks and names, power cuts."""
import re
import time

from machine import UNIT, Disk, Machine, check, test

WAIT = "leadville-timesync-wait.service"
# A program that must not start before the clock is right.
LATE = """[Unit]
After=time-sync.target
Wants=time-sync.target
[Service]
Type=oneshot
ExecStart=/bin/date -u +RELEASED_%s
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
"""
DAY = 86400


@test(400)
def cold_boots_with_wrong_clocks_late_network_and_names_and_power_cuts(bench):
    disk = Disk()
    figures = []
    try:
        with Machine(bench.deb, disk) as m:
            m.configure(names=True)
            m.dns(True)
            m.apt("-o Dpkg::Options::=--force-confold install /root/x.deb")
            m.settle(90)
            m.vm.put(LATE.encode(), "/etc/systemd/system/late.service")
            m.run(f"systemctl enable late.service {WAIT}; rm -f /etc/systemd/network/*wait*")
            m.dns(False)
            m.run("sync")
            saved = utc(m)
            m.power_cut()
            for story in (rtc_1970_and_no_network_for_a_minute, rtc_2010_and_dead_names, rtc_a_day_ahead):
                figures.append(story(m, saved))
                saved = utc(m)
                m.power_cut()
            disk_boots_again(m)
        return "; ".join(figures)
    finally:
        disk.remove()


def utc(m):
    return int(m.run("date +%s"))


def watched(m):
    m.watch()
    return m.probe("kernel")["raw_ns"] / 1e9


def right_after_network(m, limit):
    """Seconds from the lease of the address to the clock being right, by the journal's and the watch's monotonic times."""
    m.until(lambda: [1 for _, e in m.errors()[-1:] if abs(e) < 20], 60, "the clock is right", every=1)
    log = m.log()
    lease = m.lines("-u systemd-networkd", "DHCPv4 address")
    check(lease, "the test itself: no lease in networkd's journal")
    steps = [(s["raw_ns"] / 1e9, s["step_ns"] / 1e9) for s in log if s["at"] == "step"]
    check(len(steps) <= 1, f"stepped {len(steps)} times: {steps}")
    if not steps:
        return 0.0, 0.0
    took = steps[0][0] - lease[-1]
    check(took < limit, f"the first right time came {took:.1f} s after the network")
    return took, steps[0][1]


def released(m):
    """When time-sync.target was reached, s after boot."""
    m.until(lambda: m.lines("-u late.service", "RELEASED"), 60, "time-sync.target is released", every=1)
    check(m.active(WAIT) == "active", f"the wait service is {m.active(WAIT)}: " + m.run(f"journalctl -b -q -u {WAIT} -o cat"))
    return m.lines("-u late.service", "RELEASED")[0]


def told(m, most=15):
    story = m.story()
    check(len(story) < most, f"{len(story)} lines in the journal:\n" + "\n".join(story))
    return len(story)


def rtc_1970_and_no_network_for_a_minute(m, saved):
    m.boot(rtc="1970-01-01T00:00:10", network=False)
    raw = watched(m)
    now = utc(m)
    check(saved - 400 < now < saved + 900, f"restored to {now - saved:+d} s of the time that was saved")
    status = m.status()
    check(status["state"] in ("restored", "unsynchronised") and not status["settled"], f"state {status['state']} without network")
    check(m.timedatectl()["NTPSynchronized"] == "no", "timedatectl says synchronised after a cold boot without network")
    check(not m.lines("-u late.service", "RELEASED"), "time-sync.target was reached without time")
    restored = min(m.lines(f"-u {UNIT}", ""), default=0)
    time.sleep(max(0, 60 - raw))
    m.network(True)
    took, step = right_after_network(m, 5)
    at = released(m)
    m.until(lambda: m.timedatectl()["NTPSynchronized"] == "yes", 20, "timedatectl says synchronised")
    return (f"1970, 60 s without network: restored {now - saved:+d} s beside the saved time {restored:.1f} s after boot, right {took:.1f} s after "
            f"the lease (step {step:+.3f} s), time-sync at {at:.0f} s, {told(m)} lines")


def rtc_2010_and_dead_names(m, saved):
    m.boot(rtc="2010-06-01T12:00:00")
    watched(m)
    m.until(lambda: m.status()["settled"], 60, "synchronised by addresses remembered, while no name is answered")
    m.until(lambda: [1 for _, e in m.errors()[-1:] if abs(e) < 20], 30, "the clock is right", every=1)
    at = released(m)
    lease = m.lines("-u systemd-networkd", "DHCPv4 address")
    # The agent, and so the watch, comes later than the network here: time-sync.target tells when it was right.
    check(lease and at - lease[-1] < 8, f"time-sync.target {at - lease[-1]:.1f} s after the lease")
    m.dns(True)
    time.sleep(3)
    check(m.status()["state"] == "synchronised", "names came and the clock was lost")
    return f"2010, no DNS: time-sync {at - lease[-1]:.1f} s after the lease, by remembered addresses, {told(m)} lines"


def rtc_a_day_ahead(m, saved):
    m.boot(rtc=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + DAY)), network=False)
    watched(m)
    now = utc(m)
    m.dns(False)
    m.network(True)
    took, step = right_after_network(m, 15)      # a step of days wants two samples from each server
    at = released(m)
    return f"a day ahead (booted at {now - saved:+d} s): right {took:.1f} s after the lease by {step:+.1f} s, time-sync at {at:.0f} s, {told(m)} lines"


def disk_boots_again(m):
    """After the last power cut nothing is broken: the configuration parses, the service runs."""
    m.boot()
    check(m.active() == "active", "after the power cuts the service does not run: " + m.run(f"systemctl status {UNIT} -n 5 --no-pager || true"))
    damaged = [s for s in m.story() if re.search(r"broken|damaged|unreadable|corrupt", s)]
    check(not damaged, f"after a power cut: {damaged}")


@test(120)
def names_that_come_late_get_the_first_step_and_being_blind_for_long_is_admitted(bench):
    with Machine(bench.deb) as m:
        m.configure(names=True)
        m.dns(False)
        m.set_clock(-3600)
        m.watch()
        m.apt("-o Dpkg::Options::=--force-confold install /root/x.deb")
        time.sleep(20)
        check(not m.status()["settled"] and not m.steps(), "the test itself: synchronised without names")
        m.dns(True)
        took = m.until(m.steps, 90, "a step after the names came")
        m.settle()
        # Nobody waits for hours here: the kernel's own bound is put where hours without network would have left it.
        m.network(False)
        m.run("python3 -c \"import sys; sys.path.insert(0, '/root'); import probe; probe.adjtime(modes=0x4, maxerror=16_000_000)\"")
        check(m.timedatectl()["NTPSynchronized"] == "no", "the test itself: maxerror does not tell timedatectl")
        return f"right {took:.0f} s after the names came"

"""What the daemon must do to a real kernel clock under systemd: a function a test, its name the sentence.

Each gets a bench (the binary, a real chronyd) and returns what it measured. Limits are generous where only the emulated
processor's timing is in the way; what is about milliseconds of the network is judged in simulation, not here.
"""
import json
import re
import time

from bench import STATE, UNIT, check, unit_tests

TESTS = []
DAY, HOUR = 86400, 3600
SLEW_PPM = 500


def test(seconds):
    """Registers a test with about how long it takes, s: the longest begin first."""
    def register(function):
        TESTS.append((function.__name__.replace("_", " "), seconds, function))
        return function
    return register


def no_step(steps):
    check(not steps, f"the clock was stepped: {steps}")


def within(errors, limit_ms=20.0):
    """The worst of (s, ms), which must stay below the limit."""
    check(errors, "the truth was not heard")
    worst = max((abs(error) for _, error in errors))
    check(worst < limit_ms, f"up to {worst:.1f} ms wrong: {[(round(s, 1), round(e, 2)) for s, e in errors][:20]}")
    return worst


def stepped_right(bench, wrong_by):
    with bench.guest() as guest:
        guest.install()
        guest.set_clock(wrong_by)
        guest.watch()
        began = guest.now()
        guest.start()
        guest.until(guest.steps, 40, "a step")
        time.sleep(20)                      # a second one would come now
        log = guest.log()
        steps = guest.steps(log)
        check(len(steps) == 1, f"{len(steps)} steps, not one: {steps}")
        (at, amount), = steps
        check(abs(amount + wrong_by) < 0.02, f"a step of {amount:+.4f} s, not {-wrong_by:+.4f} s")
        # `began` is taken before `systemctl start`, so these 15 s include the daemon's own start.
        check(at - began < 15, f"stepped {at - began:.1f} s after the start")
        worst = within([(s, e) for s, e in guest.errors(log) if s > at])
        told = [line for line in guest.journal() if line.get("EVENT") == "step"]
        check(len(told) == 1, f"the journal tells of {len(told)} steps")
        check(guest.status()["steps"] == 1, f"status counts {guest.status()['steps']} steps")
        return f"one step of {amount:+.4f} s {at - began:.1f} s after the start, then at most {worst:.2f} ms wrong"


@test(60)
def a_clock_one_day_behind_gets_exactly_one_step(bench):
    return stepped_right(bench, -DAY)


@test(60)
def a_clock_one_day_ahead_gets_exactly_one_step(bench):
    return stepped_right(bench, DAY)


@test(250)
def once_settled_80_ms_are_slewed_and_never_stepped(bench):
    with bench.guest() as guest:
        guest.install(drop_in="[Service]\nRestartSec=5s\n")
        guest.set_clock(0)
        guest.start()
        guest.settle()
        # The clock is made wrong while the daemon cannot see it: to the one that starts then it is an offset, not a foreign step.
        pid = guest.show("MainPID")["MainPID"]
        guest.run(f"kill -STOP {pid}")
        guest.set_clock(-0.08)
        guest.run(f"kill -KILL {pid}")
        guest.watch()
        guest.restarted(pid)
        check(guest.status()["settled"], "after a restart of the daemon it is no longer settled")
        guest.until(lambda: [1 for _, e in guest.errors() if abs(e) < 3], 220, "80 ms slewed away", every=4)
        log = guest.log()
        no_step(guest.steps(log))
        errors = guest.errors(log)
        check(errors[0][1] > 60, f"the test itself: it began {errors[0][1]:.1f} ms wrong")
        # Between a quarter and three quarters of the way the rate is that of the slew alone.
        (s1, e1), (s2, e2) = (next((s, e) for s, e in errors if e < limit) for limit in (60, 20))
        rate = (e1 - e2) / (s2 - s1) * 1e3
        check(0.5 * SLEW_PPM < rate < 1.2 * SLEW_PPM, f"slewed at {rate:.0f} ppm")
        check(min(e for _, e in errors) > -5, f"overshot to {min(e for _, e in errors):.1f} ms")
        return f"no step; {errors[0][1]:+.1f} → {errors[-1][1]:+.1f} ms in {errors[-1][0] - errors[0][0]:.0f} s at {rate:.0f} ppm"


@test(150)
def under_a_lock_the_clock_is_neither_stepped_nor_slewed_and_corrected_once_released(bench):
    with bench.guest() as guest:
        guest.install()
        guest.set_clock(0)
        guest.start()
        guest.settle()
        guest.run("leadville-timesync lock --for 30m")
        check(guest.status()["locks"], "status lists no lock")
        guest.until(lambda: guest.probe("kernel")["singleshot_us"] == 0, 60, "what was pending before the lock has run out")
        guest.watch()
        guest.probe("shift", -0.08)         # somebody else makes it wrong during the match
        seen = [guest.probe("kernel")]
        for _ in range(5):
            time.sleep(8)                   # two rounds and more in all
            seen.append(guest.probe("kernel"))
        after, log = seen[-1], guest.log()
        steps = guest.steps(log)
        check(len(steps) == 1, f"stepped under the lock: {steps}")     # the first is ours
        check(after["singleshot_us"] == 0, f"a slew of {after['singleshot_us']} µs is pending under the lock")
        told = [kernel["frequency_ppm"] for kernel in seen]
        change = max(told) - min(told)      # at most 1 ppm to either side of what it was when the lock began
        check(change < 2.02, f"the frequency changed by {change:.3f} ppm under the lock: {told}")
        held = guest.errors(log)[-1][1]
        check(60 < held < 100, f"{held:+.1f} ms instead of the 80 it was made wrong by")
        guest.run("leadville-timesync unlock")
        took = guest.until(lambda: [1 for _, e in guest.errors()[-1:] if abs(e) < 20], 220, "corrected after the release", every=3)
        return (f"40 s under the lock: {held:+.1f} ms kept, frequency within {change:.3f} ppm; {took:.0f} s after the release "
                f"{guest.errors()[-1][1]:+.2f} ms")


@test(370)
def a_network_that_comes_after_5_minutes_still_gets_its_first_step(bench):
    with bench.guest() as guest:
        guest.install()
        guest.set_clock(-6 * HOUR)
        link = guest.run("basename $(readlink -f /sys/class/net/e*)").split()[0]
        guest.run(f"ip link set {link} down")
        guest.watch()
        guest.start()
        time.sleep(300)
        status = guest.status()
        check(not status["settled"] and status["state"] in ("starting", "restored", "unsynchronised"),
              f"without a network: state {status['state']}, settled {status['settled']}")
        no_step(guest.steps())
        up = guest.now()
        guest.run(f"ip link set {link} up")
        guest.until(guest.steps, 90, "a step after the network came")
        time.sleep(12)
        log = guest.log()
        steps = guest.steps(log)
        check(len(steps) == 1 and abs(steps[0][1] - 6 * HOUR) < 0.05, f"steps: {steps}")
        worst = within([(s, e) for s, e in guest.errors(log) if s > steps[0][0] + 1])
        check(guest.show("NRestarts")["NRestarts"] == "0", "the daemon was restarted meanwhile")
        return (f"300 s {status['state']}, then one step of {steps[0][1]:+.3f} s {steps[0][0] - up:.1f} s after the link came up, "
                f"then at most {worst:.2f} ms wrong")


@test(240)
def killed_and_restarted_it_keeps_drift_and_time_and_does_not_step(bench):
    # Guest and host share a crystal: the drift is the servers', which run 40 ppm fast. The kernel must be told +40.
    with bench.guest(ppm=40.0, real=False) as guest:
        guest.install()
        guest.set_clock(0)
        guest.start()
        guest.settle()
        # A kill loses what was learned since it was last kept: so it comes when the file knows the drift.
        def kept_on_disk():
            text = guest.vm.run(f"cat {STATE}/drift")[1] or "{}"
            crystal = json.loads(text).get("crystal") or {}
            return abs(crystal.get("frequency_ppm", 0) - 40) < 10 and abs(guest.status()["frequency_ppm"] - 40) < 10
        learned = guest.until(kept_on_disk, 300, "40 ppm learned and kept on disk", every=3)
        guest.until(lambda: guest.probe("kernel")["singleshot_us"] == 0, 60, "the start's last slew is over")
        guest.watch()
        before = guest.status()["frequency_ppm"]
        told = guest.probe("kernel")["frequency_ppm"]
        check(abs(told - before) < 15, f"status says {before:+.2f} ppm, the kernel has {told:+.2f}")
        pid = guest.show("MainPID")["MainPID"]
        guest.run(f"kill -9 {pid}")
        guest.restarted(pid)
        first = guest.status()
        kept = guest.probe("kernel")["frequency_ppm"]
        check(first["settled"], "the restarted daemon is no longer settled")
        check(abs(kept - before) < 10, f"{before:+.2f} ppm before, the kernel has {kept:+.2f} after the restart")
        time.sleep(25)
        log = guest.log()
        no_step(guest.steps(log))
        worst = within(guest.errors(log), 10)
        now = guest.status()["frequency_ppm"]
        check(abs(now - before) < 15, f"{before:+.2f} ppm before, {now:+.2f} half a minute after")
        return (f"{before:+.2f} ppm after {learned:.0f} s; killed; kernel {kept:+.2f} ppm at once, {now:+.2f} ppm later, no step, "
                f"never more than {worst:.2f} ms wrong")


@test(120)
def somebody_setting_the_clock_one_hour_ahead_is_undone_once(bench):
    with bench.guest() as guest:
        guest.install()
        guest.set_clock(0)
        guest.start()
        guest.settle()
        guest.watch()
        guest.run('date -s "+1 hour"')
        took = guest.until(lambda: len(guest.steps()) >= 2, 90, "the foreign step is undone")
        time.sleep(20)
        log = guest.log()
        steps = guest.steps(log)
        check(len(steps) == 2, f"steps: {steps}")
        (_, theirs), (_, ours) = steps
        check(abs(theirs - HOUR) < 3 and abs(theirs + ours) < 0.02, f"steps: {steps}")
        worst = within([(s, e) for s, e in guest.errors(log) if s > steps[1][0] + 1])
        return f"{theirs:+.3f} s by date, {ours:+.3f} s by the daemon {took:.1f} s later, then at most {worst:.2f} ms wrong"


@test(70)
def without_cap_sys_time_the_kernel_clock_is_untouched_and_status_says_so(bench):
    trace = f"{STATE}/strace"
    with bench.guest() as guest:
        # strace is the main process then, and the filter would forbid ptrace; the kernel itself is what must not be asked.
        guest.install(drop_in=f"""[Service]
AmbientCapabilities=
CapabilityBoundingSet=
SystemCallFilter=
NotifyAccess=all
ExecStart=
ExecStart=/usr/bin/strace -f -qq -o {trace} -e trace=clock_adjtime,adjtimex,clock_settime,settimeofday,bind /usr/bin/leadville-timesync run
""")
        guest.set_clock(-0.5)
        before = guest.probe("kernel")
        guest.watch()
        guest.start()
        guest.until(lambda: guest.status()["sync_count"] > 0, 40, "it measures all the same")
        time.sleep(8)
        status, after, log = guest.status(), guest.probe("kernel"), guest.log()
        check(not status["steering"] and "CAP_SYS_TIME" in (status["steering_why"] or ""), f"status: {status['steering_why']!r}")
        no_step(guest.steps(log))
        for key in ("frequency_ppm", "status", "tick", "singleshot_us", "loop_offset_ns"):
            check(before[key] == after[key], f"{key} went from {before[key]} to {after[key]}")
        moved = after["realtime_minus_raw_ns"] - before["realtime_minus_raw_ns"]
        check(abs(moved) < 50_000, f"realtime − raw moved by {moved} ns")
        calls = guest.run(f"cat {trace}").splitlines()
        check(any("bind(" in c for c in calls), "strace saw nothing at all")
        calls = [c for c in calls if "bind(" not in c]
        bad = [c for c in calls if re.search(r"(clock_settime|settimeofday)\(", c)
               or re.search(r"adjtime", c) and not re.search(r"modes=(0|ADJ_OFFSET_SS_READ)\b", c)]
        check(not bad, f"calls that change the clock: {bad[:3]}")
        offered = (status["corrected_utc_ns"] - status["utc_ns"]) / 1e6
        check(abs(status["offset_us"] / 1e3 - 500) < 20 and abs(offered - 500) < 20, f"it measures {status['offset_us']} µs, offers {offered} ms")
        return (f"{len(calls)} calls ask the kernel clock, none changes it; read-back equal; offset {status['offset_us'] / 1e3:+.1f} ms measured and "
                f"offered; \"{status['steering_why']}\"")


@test(60)
def the_journal_has_plain_fields_and_a_message_id_per_kind_of_event(bench):
    with bench.guest() as guest:
        guest.install()
        guest.set_clock(0.6)
        guest.start()
        guest.settle()
        time.sleep(3)
        journal = guest.journal()
        for field in ("OFFSET_US", "ERROR_BOUND_US", "FREQUENCY_PPM"):
            values = [line[field] for line in journal if field in line]
            check(values, f"no line has {field}")
            check(all(re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", str(value)) for value in values), f"{field}: {values[:3]}")
        for field in ("QUALITY", "SOURCE", "EVENT", "MESSAGE_ID"):
            check(any(field in line for line in journal), f"no line has {field}")
        ids = {}
        for line in journal:
            if "EVENT" in line:
                check(re.fullmatch(r"[0-9a-f]{32}", line.get("MESSAGE_ID", "")), f"no MESSAGE_ID beside EVENT={line['EVENT']}")
                ids.setdefault(line["EVENT"], set()).add(line["MESSAGE_ID"])
        check(all(len(kinds) == 1 for kinds in ids.values()) and len({i for kinds in ids.values() for i in kinds}) == len(ids),
              f"not one MESSAGE_ID per kind: {ids}")
        step = [line for line in journal if line.get("EVENT") == "step"]
        check(len(step) == 1, f"{len(step)} lines about one step")
        ours = [line for line in journal if line.get("_COMM") == "leadville-times"]
        check(len(ours) < 40, f"{len(ours)} lines about an uneventful start")
        return f"{len(journal)} lines, events {', '.join(sorted(ids))}"


@test(80)
def systemd_hears_ready_and_a_daemon_that_hangs_is_restarted(bench):
    with bench.guest() as guest:
        guest.install(drop_in="[Service]\nWatchdogSec=8s\nRestartSec=1s\n")
        guest.set_clock(0)
        began = time.monotonic()
        guest.start()                       # Type=notify: returns at READY=1
        ready = time.monotonic() - began
        guest.settle()
        shown = guest.show("ActiveState", "SubState", "Type", "StatusText", "NRestarts", "MainPID")
        check(shown["Type"] == "notify" and shown["SubState"] == "running", str(shown))
        check(shown["StatusText"], "no STATUS= text")
        time.sleep(18)                      # more than two watchdog intervals: alive, it keeps systemd content
        check(guest.show("NRestarts")["NRestarts"] == "0", "restarted while it was alive")
        guest.run(f"kill -STOP {shown['MainPID']}")
        took = guest.restarted(shown["MainPID"])
        check(guest.show("NRestarts")["NRestarts"] == "1", "restarted more than once")
        check("atchdog timeout" in guest.run(f"journalctl -q -u {UNIT} --no-pager"), "the journal has no watchdog time-out")
        began = time.monotonic()
        guest.run(f"systemctl stop {UNIT}")
        stopped = time.monotonic() - began
        check(guest.show("Result")["Result"] == "success", f"stopped with result {guest.show('Result')['Result']}")
        return f"READY after {ready:.1f} s, alive 18 s with an 8 s watchdog, hung: restarted in {took:.1f} s; stopped in {stopped:.1f} s; status \"{shown['StatusText']}\""


@test(90)
def each_call_that_moves_the_kernel_clock_moves_it_as_told(bench):
    # The library's own tests of it, which nobody may run on a machine that is not thrown away.
    program = unit_tests(bench.folder)
    with bench.guest() as guest:
        guest.put_program(program, "/usr/local/bin/unit-tests")
        out = guest.run("LEADVILLE_MAY_SET_THIS_CLOCK=yes /usr/local/bin/unit-tests --ignored --test-threads=1 steering 2>&1", timeout=180)
        passed = re.search(r"test result: ok\. (\d+) passed; 0 failed", out)
        check(passed and int(passed[1]) >= 6, out)
        return f"{passed[1]} tests: taking over, frequency, slew, step, wake-up, dropped exchange"

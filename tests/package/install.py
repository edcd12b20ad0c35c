"""Installing, upgrading, reloading and removing the package in a running machine."""
import json
import os
import subprocess
import tempfile
import time

from machine import CONFIG, ROOT, UNIT, Machine, check, test

STATE = "/var/lib/leadville/timesync"
CAP_SYS_TIME = 1 << 25
# As timesyncd leaves it: its loop still slewing 8 ms, at a frequency of its own.
LOAD_LOOP = ("python3 -c \"import sys; sys.path.insert(0, '/root'); import probe; "
             "probe.adjtime(modes=0x2033, offset=8_000_000, status=0x2001, constant=6, freq=45 << 16)\"")


@test(90)
def installed_over_timesyncd_it_takes_over_without_a_gap_and_nothing_of_its_slew_is_left(bench):
    with Machine(bench.deb) as m:
        check(m.active("systemd-timesyncd") == "active", "the test itself: timesyncd is not active")
        m.configure()
        m.set_clock(-0.008)
        m.run(LOAD_LOOP)
        loaded = m.probe("kernel")
        check(loaded["status"] & 1 and loaded["loop_offset_ns"], f"the test itself: no loop in the kernel: {loaded}")
        m.watch()
        began = m.now()
        m.apt("-o Dpkg::Options::=--force-confold install /root/x.deb")
        check(m.active() == "active", "after the installation the service does not run")
        kernel = m.probe("kernel")
        check(not kernel["status"] & 1 and not kernel["loop_offset_ns"], f"timesyncd's loop still runs: {kernel}")
        check(kernel["tick"] == 10000, f"timesyncd's tick stayed: {kernel}")
        took = m.settle(90)
        check(m.active("systemd-timesyncd") != "active", "timesyncd still runs")
        check("deinstall" in m.run("dpkg-query -W -f '${Status}' systemd-timesyncd || echo deinstall"), "timesyncd is still installed")
        time.sleep(12)
        # A guest whose processor waits for others knows its rate slowly.
        m.until(lambda: json.loads(m.run("leadville-timesync status --json"))["frequency_bound_ppm"] < 15, 180,
                "the rate is known to 15 ppm")
        kernel = m.probe("kernel")
        check(abs(kernel["frequency_ppm"]) < 30, f"timesyncd's frequency stayed: {kernel}")
        log = m.log()
        check(not m.steps(log), f"the clock was stepped: {m.steps(log)}")
        errors = [abs(e) for s, e in m.errors(log) if s > began]
        check(errors and max(errors) < 20, f"up to {max(errors, default=0):.1f} ms wrong")
        wants = m.run(f"systemctl is-enabled {UNIT}").strip()
        check(wants == "enabled", f"the unit is {wants}, not enabled")
        return f"synchronised {took:.0f} s after apt, never more than {max(errors):.1f} ms wrong, kernel loop cleared"


@test(90)
def timedatectl_treats_it_as_the_time_service_and_says_synchronised(bench):
    with Machine(bench.deb) as m:
        m.install_and_settle()
        shown = m.timedatectl()
        check(shown["NTP"] == "yes" and shown["NTPSynchronized"] == "yes", f"timedatectl: {shown}")
        check(m.vm.run("test -e /run/systemd/timesync/synchronized")[0] == 0, "/run/systemd/timesync/synchronized is missing")
        text = m.run("timedatectl status")
        check("NTP service: active" in text and "synchronized: yes" in text, text)
        m.run("timedatectl set-ntp false")
        m.until(lambda: m.active() == "inactive", 10, "set-ntp false stops it")
        check(m.timedatectl()["NTP"] == "no", "NTP=yes after set-ntp false")
        check(m.vm.run("test -e /run/systemd/timesync/synchronized")[0] != 0, "synchronized stayed behind after the stop")
        m.run("timedatectl set-ntp true")
        m.until(lambda: m.active() == "active", 20, "set-ntp true starts it")
        m.settle()
        check(m.timedatectl()["NTP"] == "yes", "NTP=no after set-ntp true")
        return "NTP=yes, NTPSynchronized=yes; set-ntp false and true stop and start it"


@test(90)
def an_upgrade_keeps_state_and_edited_configuration(bench):
    with Machine(bench.deb) as m, tempfile.TemporaryDirectory() as folder:
        m.install_and_settle()
        m.run(f"printf '\\n# the range officer was here\\n[alert]\\ndrift_threshold = \"25ms\"\\n' >> {CONFIG}; systemctl reload {UNIT}")
        m.run(f"systemctl stop {UNIT}; ls {STATE}; systemctl start {UNIT}")
        files = set(m.run(f"ls {STATE}").split())
        before, pid = m.run(f"cat {CONFIG}"), m.show("MainPID")["MainPID"]
        m.run(f"echo kept > {STATE}/mark")
        m.watch()
        m.put_deb(newer(bench.deb, folder), "/root/newer.deb")
        m.run("dpkg -i /root/newer.deb", timeout=300)
        check(m.run(f"cat {CONFIG}") == before, "the edited configuration changed")
        check(m.run(f"cat {STATE}/mark").strip() == "kept", "the state was touched")
        check(files <= set(m.run(f"ls {STATE}").split()), "a state file is gone")
        check(m.show("MainPID")["MainPID"] not in (pid, "0"), "the new program was not started")
        status = m.status()
        check(status["settled"], "after the upgrade it is no longer settled")
        m.settle()
        time.sleep(5)
        check(not m.steps(), f"the upgrade stepped the clock: {m.steps()}")
        return f"state {sorted(files)} and the edited conffile kept, restarted, still settled, no step"


def newer(deb, folder):
    """The same package under a higher version."""
    tree = folder + "/tree"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    with open(tree + "/DEBIAN/control") as f:
        control = f.read()
    lines = [line + "+test1" if line.startswith("Version:") else line for line in control.splitlines()]
    with open(tree + "/DEBIAN/control", "w") as f:
        f.write("\n".join(lines) + "\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, folder + "/newer.deb"], check=True, stdout=subprocess.DEVNULL)
    return folder + "/newer.deb"


@test(80)
def a_bad_configuration_is_told_with_line_and_column_and_the_old_one_goes_on(bench):
    with Machine(bench.deb) as m:
        m.install_and_settle()
        pid = m.show("MainPID")["MainPID"]
        bad = m.configuration(more='sync_intervall = "5min"\n')
        line = bad.splitlines().index('sync_intervall = "5min"') + 1
        m.vm.put(bad.encode(), CONFIG)
        m.vm.run(f"systemctl reload {UNIT}")
        m.until(lambda: f"{line}:1" in "\n".join(m.story()) or f"line {line}" in "\n".join(m.story()), 10,
                f"the journal names line {line}")
        time.sleep(3)
        check(m.show("MainPID")["MainPID"] == pid and m.active() == "active", "the reload ended the daemon")
        check(m.status()["state"] == "synchronised", "after the bad reload it is no longer synchronised")
        told = [s for s in m.story() if f"{line}:1" in s or f"line {line}" in s][-1]
        m.vm.run(f"systemctl restart {UNIT}")
        time.sleep(3)
        shown = m.vm.run(f"systemctl status {UNIT} --no-pager -n 20")[1]
        check(m.active() != "active", "it starts with a bad configuration")
        check(f"{line}:1" in shown or f"line {line}" in shown, f"systemctl status does not say where the mistake is: {shown}")
        m.configure()
        m.run(f"systemctl restart {UNIT}")
        m.settle()
        return f"“{told.strip()}”; the old configuration went on; a restart is refused in the same words"


@test(120)
def remove_and_purge_take_what_is_ours_and_nothing_of_others_and_it_can_be_installed_again(bench):
    with Machine(bench.deb) as m:
        m.configure()
        m.run("dpkg --force-confold -i /root/x.deb", timeout=300)
        m.settle(90)
        m.run("touch /run/leadville/other.sock /etc/leadville/other.toml; mkdir -p /var/lib/leadville/other; touch /var/lib/leadville/other/x")
        m.run("leadville-timesync web enable; systemctl enable leadville-timesync.socket leadville-timesync-wait; systemctl restart leadville-timesync", timeout=90)
        check(m.active("leadville-timesync.socket") == "active", "the test itself: the socket unit is not active")
        others = "ls /run/leadville/other.sock /etc/leadville/other.toml /var/lib/leadville/other/x"
        m.run(f"systemctl stop {UNIT}")
        m.run(others)
        m.run(f"systemctl start {UNIT}")
        m.apt("remove leadville-timesync")
        for unit in (UNIT, "leadville-timesync-web.service", "leadville-timesync.socket"):
            check(m.active(unit) != "active", f"{unit} runs on after its removal")
        m.run(others)
        left = m.run("ls /run/leadville /etc/leadville; ls /var/lib/leadville").split()
        check("timesync.sock" not in left, f"the socket was left: {left}")
        check("timesync.toml" in left and "timesync" in left, f"remove took the configuration or the state: {left}")
        kernel = m.probe("kernel")
        check(not kernel["singleshot_us"] and not kernel["loop_offset_ns"], f"it left a slew behind: {kernel}")
        m.apt("purge leadville-timesync")
        m.run(others)
        left = m.run("ls /run/leadville /etc/leadville /var/lib/leadville").split()
        check(not [x for x in left if x.startswith("timesync")], f"purge left {left}")
        stray = m.run("find / -xdev -name '*leadville*' -not -path '/proc/*' -not -path '/var/cache/*' -not -path '/var/lib/leadville' "
                      "-not -path '/etc/leadville' -not -path '/run/leadville' -not -path '/var/lib/dpkg/*' -not -path '/var/log/*'").split()
        check(not stray, f"purge left {stray}")
        m.configure()
        m.run("dpkg --force-confold -i /root/x.deb", timeout=300)
        m.settle(90)
        m.run("rm -r /run/leadville/other.sock /etc/leadville/other.toml /var/lib/leadville/other")
        m.apt("purge leadville-timesync")
        gone = m.vm.run("ls -d /run/leadville /etc/leadville /var/lib/leadville")[1]
        check(not gone.strip(), f"empty folders were left: {gone}")
        return "removed, purged, installed again, purged: others' files untouched, nothing of ours left"


@test(60)
def what_the_former_installer_put_in_is_replaced_and_its_configuration_stays(bench):
    with Machine(bench.deb) as m, tempfile.TemporaryDirectory() as folder:
        m.apt("remove systemd-timesyncd")           # as their own packages do
        for name in ("ntpsec", "chrony"):
            m.vm.put(stand_in(name, folder), f"/root/{name}.deb")
            m.run(f"dpkg -i /root/{name}.deb", timeout=120)
            m.configure()
            m.run("dpkg --force-confold -i /root/x.deb", timeout=300)
            check(m.active() == "active", f"in the place of {name} the service does not run")
            shown = m.run(f"dpkg-query -W -f '${{db:Status-Status}}' {name}")
            check(shown == "config-files", f"{name} is {shown}")
            check(m.run(f"cat /etc/{name}.conf").strip() == "of the former", f"/etc/{name}.conf was touched")
            m.run(f"dpkg --purge {name}; dpkg --purge leadville-timesync", timeout=120)
        return "ntpsec and chrony: removed by dpkg -i, their configuration files kept"


def stand_in(name, folder):
    """A package with the name and the relations of another time daemon."""
    tree = f"{folder}/{name}"
    os.makedirs(tree + "/DEBIAN")
    os.makedirs(tree + "/etc")
    for path, text in ((f"etc/{name}.conf", "of the former\n"), ("DEBIAN/conffiles", f"/etc/{name}.conf\n"),
                       ("DEBIAN/control", f"Package: {name}\nVersion: 99\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"
                        "Provides: time-daemon\nConflicts: time-daemon\nReplaces: time-daemon\nDescription: stands for another\n")):
        with open(f"{tree}/{path}", "w") as f:
            f.write(text)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, f"{tree}.deb"], check=True, stdout=subprocess.DEVNULL)
    return f"{tree}.deb"


@test(80)
def the_sandboxed_service_can_set_the_clock_and_write_nowhere_else(bench):
    with Machine(bench.deb) as m:
        m.configure()
        m.set_clock(-3600)
        m.watch()
        m.apt("-o Dpkg::Options::=--force-confold install /root/x.deb")
        m.until(m.steps, 40, "the service steps a clock that is an hour behind")
        pid = m.show("MainPID")["MainPID"]
        proc = dict(line.split(":", 1) for line in m.run(f"cat /proc/{pid}/status").splitlines() if ":" in line)
        for name in ("CapEff", "CapBnd", "CapPrm", "CapAmb"):
            check(int(proc[name], 16) == CAP_SYS_TIME, f"{name} is {proc[name].strip()}")
        check(proc["Uid"].split()[0] != "0" and proc["NoNewPrivs"].strip() == "1" and proc["Seccomp"].strip() == "2", str(proc))
        # The same unit with another program: what that may do, the daemon may.
        with open(os.path.dirname(__file__) + "/sandbox.py", "rb") as f:
            m.vm.put(f.read(), "/usr/local/lib/sandbox.py")
        m.run(f"""sed 's|^ExecStart=.*|ExecStart=/usr/bin/python3 /usr/local/lib/sandbox.py|; s|^Type=.*|Type=oneshot|; s|^Restart=.*|Restart=no|
                  s|^StateDirectory=.*|StateDirectory=leadville/probe|; s|^RuntimeDirectory=.*|RuntimeDirectory=probe|
                  /^Conflicts=\\|^Before=\\|^Watchdog/d' $(systemctl show {UNIT} -p FragmentPath --value) > /run/systemd/system/sandbox-probe.service
                  systemctl daemon-reload; systemctl start sandbox-probe""", timeout=60)
        found = json.loads(m.run("journalctl -q -u sandbox-probe -o cat | grep '^{'").splitlines()[-1])
        check(found["clock"], "inside the sandbox the clock cannot be steered")
        check(found["written"] == ["/run/leadville", "/run/probe", "/tmp", "/var/lib/leadville/probe", "/var/tmp"] , f"writable: {found['written']}")
        check(not found["allowed"], f"allowed inside the sandbox: {found['allowed']}")
        out = m.run(f"systemd-analyze security --no-pager {UNIT} | tail -1")
        exposure = float(out.split(":")[1].split()[0])
        check(exposure <= 1.9, out)
        wait = m.run("systemd-analyze security --no-pager leadville-timesync-wait | tail -1").split(":")[1].split()[0]
        return f"CAP_SYS_TIME alone, writes only in {found['written']}; exposure {exposure}, wait service {wait}"


@test(70)
def members_of_the_group_leadville_may_ask_and_command_and_nobody_else(bench):
    with Machine(bench.deb) as m:
        m.install_and_settle()
        m.run("useradd -G leadville officer; useradd stranger")
        m.run("setpriv --reuid=officer --regid=officer --init-groups leadville-timesync status --json")
        m.run("setpriv --reuid=officer --regid=officer --init-groups leadville-timesync lock --for 5m")
        check(m.status()["locks"], "the officer's lock is not there")
        m.run("setpriv --reuid=officer --regid=officer --init-groups leadville-timesync unlock")
        rc, out, err = m.vm.run("setpriv --reuid=stranger --regid=stranger --init-groups leadville-timesync lock")
        check(rc != 0 and not m.status()["locks"], f"a stranger may lock the clock: {out}{err}")
        check("leadville" in out + err and "group" in out + err, f"the refusal names no way out: {out}{err}")
        check("cannot be given" not in "\n".join(m.story()), "\n".join(m.story()))
        return f"status, lock and unlock as a member; a stranger: “{(out + err).strip().splitlines()[0]}”"

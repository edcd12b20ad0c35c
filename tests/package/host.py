"""What needs no machine of its own: refusals, Bookworm in a chroot, the arm64 binary under an emulator."""
import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile

from machine import ROOT, check, qemu, test

SIMULATE = ["simulate", "S2", "--seed", "7", "--json"]
# Nothing run on this machine may hold the right to set its clock.
POWERLESS = ["setpriv", "--bounding-set", "-sys_time", "--inh-caps", "-sys_time"]


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    check(done.returncode == 0, f"exit code {done.returncode} from {' '.join(command)}: {done.stdout} {done.stderr}")
    return done.stdout


def unpacked(deb, folder):
    run(["dpkg-deb", "-x", deb, folder])
    return folder + "/usr/bin/leadville-timesync"


@test(10)
def a_system_that_is_too_old_or_32_bit_is_refused_in_words(bench):
    cases = (("armhf", "2.36-9", "32-bit"), ("arm64", "2.36-9", "package for amd64"), ("amd64", "2.31-13+deb11u5", "too old"),
             ("amd64", "2.36-9+rpt2+deb12u4", ""), ("amd64", "2.41-12", ""))
    with tempfile.TemporaryDirectory() as folder:
        run(["dpkg-deb", "-e", bench.deb, folder + "/control"])
        for native, libc, words in cases:
            with open(folder + "/dpkg", "w") as f:
                f.write(f'#!/bin/sh\n[ "$1" = --print-architecture ] && echo {native} && exit\nexec /usr/bin/dpkg "$@"\n')
            with open(folder + "/dpkg-query", "w") as f:
                f.write(f"#!/bin/sh\nprintf '%s' '{libc}'\n")
            os.chmod(folder + "/dpkg", 0o755)
            os.chmod(folder + "/dpkg-query", 0o755)
            environment = {"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin", "DPKG_MAINTSCRIPT_ARCH": "amd64"}
            done = subprocess.run([folder + "/control/preinst", "install"], env=environment, capture_output=True, text=True)
            said = done.stderr.strip()
            check((done.returncode != 0) == bool(words) and words in said, f"{native}, C library {libc}: {done.returncode}, {said!r}")
    return f"{len(cases)} systems; Bookworm and Trixie pass"


@test(5)
def the_manual_and_the_completions_are_in_the_package(bench):
    with tempfile.TemporaryDirectory() as folder:
        program = unpacked(bench.deb, folder)
        pages = {}
        for name in ("man8/leadville-timesync.8", "man8/leadville-timesync-web.8", "man5/timesync.toml.5"):
            with gzip.open(f"{folder}/usr/share/man/{name}.gz", "rt") as f:
                pages[name] = f.read()
        commands = re.findall(r"^  ([a-z][a-z-]+)  ", run([program, "--help"]), re.M)
        missing = [c for c in commands if c != "help" and c not in pages["man8/leadville-timesync.8"].replace("\\-", "-")]
        check(len(commands) > 15 and not missing, f"{len(commands)} commands, the manual lacks {missing}")
        check("--listen" in pages["man8/leadville-timesync-web.8"].replace("\\-", "-"), "leadville-timesync-web(8) lacks --listen")
        check("sync_interval" in pages["man5/timesync.toml.5"].replace("\\_", "_"), "timesync.toml(5) does not tell of sync_interval")
        share = folder + "/usr/share/"
        bash = share + "bash-completion/completions/leadville-timesync"
        offered = run(["bash", "-c", f"source {bash}; complete -p leadville-timesync"])
        check("leadville-timesync" in offered, offered)
        for path in ("zsh/vendor-completions/_leadville-timesync", "fish/vendor_completions.d/leadville-timesync.fish"):
            with open(share + path) as f:
                check("check-config" in f.read(), f"{path} is empty")
        return f"{len(commands)} commands in leadville-timesync(8), leadville-timesync-web(8), timesync.toml(5), bash, zsh, fish"


@test(60)
def the_same_package_installs_and_runs_on_bookworm(bench):
    with tempfile.TemporaryDirectory(prefix="leadville-bookworm-") as root:
        os.chmod(root, 0o755)
        run(["tar", "-xf", qemu.DIR + "/bookworm-chroot.tar", "-C", root])
        shutil.copy(bench.deb, root + "/x.deb")
        inside = ["unshare", "--net", "--pid", "--fork", "--mount", f"--mount-proc={root}/proc", *POWERLESS, "chroot", root]
        said = run([*inside, "dpkg", "-i", "/x.deb"], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"})
        check("removing systemd-timesyncd" in said.lower() or "systemd-timesyncd" in said, f"timesyncd was not replaced: {said}")
        check(run([*inside, "dpkg-query", "-W", "-f", "${Status}", "leadville-timesync"]) == "install ok installed", "not installed")
        version = run([*inside, "leadville-timesync", "--version"]).strip()
        run([*inside, "leadville-timesync", "check-config"])
        figures = json.loads(run([*inside, "leadville-timesync", *SIMULATE]))
        enabled = os.path.islink(root + "/etc/systemd/system/sysinit.target.wants/leadville-timesync.service")
        check(enabled, "the unit is not enabled")
        groups = open(root + "/etc/group").read()
        check("bluetooth:" in groups and "leadville:" in groups, groups)
        verify = subprocess.run([*inside, "systemd-analyze", "verify", "--man=no", "/lib/systemd/system/leadville-timesync.service"],
                                capture_output=True, text=True)
        check("leadville" not in verify.stderr, f"Bookworm's systemd: {verify.stderr}")
        run([*inside, "dpkg", "--purge", "leadville-timesync"])
        left = [p for p in ("etc/leadville", "var/lib/leadville", "run/leadville") if os.path.exists(f"{root}/{p}")]
        check(not left, f"purge left {left}")
        return f"{version}, S2 rms {figures['rms_us']} µs, purged"


@test(60)
def the_arm64_binary_gives_the_same_figures_as_amd64(bench):
    deb = bench.deb.replace("_amd64.deb", "_arm64.deb")
    if not os.path.exists(deb):
        run([ROOT + "/debian/build.sh", "arm64"])
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    check(emulator, "qemu-user-static is not installed")
    depends = [run(["dpkg-deb", "-f", d, "Depends"]).strip() for d in (bench.deb, deb)]
    check(depends[0] == depends[1] and "cross" not in depends[1], f"they depend on {depends}")
    with tempfile.TemporaryDirectory() as folder:
        native, foreign = unpacked(bench.deb, folder + "/amd64"), unpacked(deb, folder + "/arm64")
        arm = [*POWERLESS, emulator, "-L", "/usr/aarch64-linux-gnu", foreign]
        version = run([*arm, "--version"]).strip()
        check(version == run([native, "--version"]).strip(), f"versions differ: {version}")
        run([*arm, "check-config", folder + "/arm64/etc/leadville/timesync.toml"])
        here, there = run([native, *SIMULATE]), run([*arm, *SIMULATE])
        check(here == there, f"amd64: {here}\narm64: {there}")
        sizes = [os.path.getsize(p) for p in (native, foreign)]
        check(max(sizes) <= 3 << 20, f"the binaries have {sizes} bytes")
        return f"{version}; S2 rms {json.loads(there)['rms_us']} µs on both, to the last digit; {sizes[0] >> 10} and {sizes[1] >> 10} kB"

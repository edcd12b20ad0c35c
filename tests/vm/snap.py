#!/usr/bin/env python3
"""A booted machine, saved whole: each test starts from it in seconds instead of a boot of half a minute or more.

  snap.py image [SUITE [ARCH]]   print the folder of the image, whether it is there or not
  snap.py make [SUITE]           boot once, start bluetoothd, save memory and disk; nothing if it is there
  snap.py test [SUITE]           restore, say how long it took, talk to a fake timer

Both folders carry in their names what they were made from (the QEMU version and the command line too, which must be those of the
snapshot), so that two versions of this repository never spoil each other's. Nothing is written back. The clock of a
restored guest goes on from where it was saved: the test sets it.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from vm import DIR, VM, command_line  # noqa: E402

MACHINE = {"append": "mitigations=off nokaslr", "mem": 512, "smp": 2}
READY = "modprobe hci_vhci; modprobe sch_netem; systemctl start bluetooth; python3 -c 'import bleak'"


def digest(files, *more):
    total = hashlib.sha256("\0".join(more).encode())
    for name in files:
        with open(f"{HERE}/{name}", "rb") as f:
            total.update(f.read())
    return total.hexdigest()[:12]


def image(suite="trixie", arch="amd64"):
    made_from = digest(("build-image.sh", "guest/agent.py", "guest/customize.sh", "guest/vm-agent.service"))
    return f"{DIR}/img-{suite}-{arch}-{made_from}"


def folder(suite="trixie"):
    version = subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True).stdout
    made_from = digest((), image(suite), version, READY, *command_line("IMAGE", "FOLDER", **MACHINE))
    return f"{DIR}/booted-{suite}-{made_from}"


def make(suite="trixie"):
    base, snap = image(suite), folder(suite) + ".new"
    if os.path.exists(folder(suite)):
        os.utime(folder(suite))
        return
    shutil.rmtree(snap, ignore_errors=True)
    os.makedirs(snap)
    for name in ("vmlinuz", "initrd.img"):
        os.link(f"{base}/{name}", f"{snap}/{name}")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{base}/root.qcow2", "-F", "qcow2", f"{snap}/root.qcow2"],
                   check=True)
    began = time.monotonic()
    with VM(snap, persist=True, **MACHINE) as vm:
        vm.wait_agent()
        vm.run("systemctl is-system-running --wait")
        print(f"booted in {time.monotonic() - began:.1f} s")
        print(*vm.run(READY, timeout=600))
        vm.run("sync; echo 3 > /proc/sys/vm/drop_caches")
        vm.qmp("stop")
        vm.qmp("migrate", uri=f"file:{snap}/state")
        while True:
            status = vm.qmp("query-migrate")["return"].get("status")
            if status in ("completed", "failed"):
                break
            time.sleep(0.1)
        if status != "completed":
            raise RuntimeError("the snapshot could not be saved")
        print(f"saved: {os.path.getsize(snap + '/state') >> 20} MiB of memory, {os.path.getsize(snap + '/root.qcow2') >> 20} MiB of disk")
        vm.qmp("quit")
        vm.process.wait()
    os.rename(snap, folder(suite))


def load(suite="trixie", **changes):
    snap = folder(suite)
    vm = VM(snap, incoming=f"file:{snap}/state", **{**MACHINE, **changes}).start()
    deadline = time.monotonic() + 120
    while True:
        vm._still_alive()
        if time.monotonic() > deadline:
            vm.stop()
            raise TimeoutError("the machine was not restored within two minutes")
        try:
            status = vm.qmp("query-status")["return"]["status"]
        except OSError:
            status = None
        if status in ("paused", "running"):
            break
        time.sleep(0.02)
    if status == "paused":
        vm.qmp("cont")
    vm.hello = True
    return vm


def test(suite="trixie"):
    began = time.monotonic()
    with load(suite) as vm:
        restored = time.monotonic()
        out = vm.run("date -u +%F_%T")[1]
        print(f"restored in {restored - began:.2f} s, first answer after {time.monotonic() - began:.2f} s: {out}")
        for name in ("amg_vhci.py", "client_bleak.py"):
            vm.put(f"{HERE}/{name}", f"/root/{name}")
        print(vm.run("cd /root; (python3 -u amg_vhci.py > amg.log 2>&1 &); timeout 60 python3 -u client_bleak.py 6 COM START; tail -4 amg.log")[1])


if __name__ == "__main__":
    {"image": lambda *words: print(image(*words)), "make": make, "test": test}[sys.argv[1]](*sys.argv[2:])

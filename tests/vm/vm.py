#!/usr/bin/env python3
"""Boot the test image in QEMU, run commands in it, copy files in and out. Standard library only.

Commands go through an agent in the guest that listens on a virtio-serial port, so they work whatever a test does to the
guest's network or clock. `vm.py --img FOLDER 'COMMAND'…` boots the image, runs the commands and throws everything away.
"""
import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time

DIR = os.environ.get("VM_DIR") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "leadville-vm")


def accelerator():
    """KVM may look present and still not run a stock kernel: only a processor that shows vmx or svm has it."""
    with open("/proc/cpuinfo") as f:
        flags = f.read()
    able = (" vmx" in flags or " svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)
    return "kvm" if able and os.environ.get("VM_ACCEL") == "kvm" else "tcg,thread=multi"


def command_line(img, folder, accel=None, mem=512, smp=2, cpu="max", rtc=None, append="", persist=False, incoming=None, extra=()):
    drive = f"if=none,id=d0,file={img}/root.qcow2,format=qcow2,snapshot={'off' if persist else 'on'},cache=unsafe,aio=threads"
    kernel = f"root=/dev/vda rw console=ttyS0 quiet loglevel=4 systemd.show_status=0 {append}"
    args = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-M", "q35", "-cpu", cpu, "-accel", accel or accelerator(), "-m", str(mem), "-smp", str(smp),
        "-kernel", img + "/vmlinuz", "-initrd", img + "/initrd.img", "-append", kernel,
        "-drive", drive, "-device", "virtio-blk-pci,drive=d0",
        "-chardev", f"file,id=con,path={folder}/console.log", "-serial", "chardev:con",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=ag,path={folder}/agent.sock,server=on,wait=off",
        "-device", "virtserialport,chardev=ag,name=org.test.agent",
        "-device", "virtio-rng-pci",
        "-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off",
        "-netdev", "user,id=n0,restrict=off", "-device", "virtio-net-pci,netdev=n0,romfile=",
    ]
    if rtc:
        args += ["-rtc", rtc]
    if incoming:
        args += ["-incoming", incoming]
    return args + list(extra)


RUNNING = set()                 # processes, for who must end them all at once


class VM:
    """One machine. `img` is a folder with vmlinuz, initrd.img and root.qcow2; nothing is written back unless `persist`."""

    def __init__(self, img, **machine):
        self.dir = tempfile.mkdtemp(prefix="leadville-vm-", dir=os.environ.get("VM_TMP"))
        self.console_log, self.agent_path, self.qmp_path = (f"{self.dir}/{name}" for name in ("console.log", "agent.sock", "qmp.sock"))
        self.args = command_line(img, self.dir, **machine)
        self.process = None
        self.requests = 0
        self.replies = {}
        self.changed = threading.Condition()
        self.hello = False          # None: the connection is gone

    def start(self):
        self.started = time.monotonic()
        with open(self.dir + "/qemu.err", "w") as err:
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        RUNNING.add(self.process)
        for _ in range(1000):
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(self.agent_path)
                break
            except OSError:
                self.socket.close()
                self._still_alive()
                time.sleep(0.02)
        threading.Thread(target=self._receive, daemon=True).start()
        return self

    def _still_alive(self):
        if self.process.poll() is not None:
            with open(self.dir + "/qemu.err") as f:
                raise RuntimeError("QEMU ended: " + f.read())

    def _receive(self):
        buffer = b""
        while True:
            try:
                data = self.socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                with self.changed:
                    self.hello = None
                    self.changed.notify_all()
                return
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                try:
                    reply = json.loads(line)
                except ValueError:
                    continue
                with self.changed:
                    if reply.get("hello"):
                        self.hello = True
                    else:
                        self.replies[reply["id"]] = reply
                    self.changed.notify_all()

    def wait_agent(self, timeout=180):
        with self.changed:
            self.changed.wait_for(lambda: self.hello or self.hello is None, timeout)
        if not self.hello:
            with open(self.console_log, errors="replace") as f:
                raise TimeoutError("no agent; the console says:\n" + f.read()[-3000:])
        return time.monotonic() - self.started

    def _call(self, wait, **request):
        with self.changed:
            self.requests += 1
            number = request["id"] = self.requests
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        with self.changed:
            if not self.changed.wait_for(lambda: number in self.replies or self.hello is None, wait):
                raise TimeoutError(f"no answer from the guest to {str(request)[:200]}")
            if number not in self.replies:
                raise RuntimeError("the machine is gone")
            reply = self.replies.pop(number)
        return reply["rc"], base64.b64decode(reply["out"]), base64.b64decode(reply["err"])

    def run(self, command, timeout=120, stdin=b"", check=False):
        """A shell line, or a list of arguments, as root: (exit code, stdout, stderr)."""
        how = "sh" if isinstance(command, str) else "argv"
        rc, out, err = self._call(timeout + 10, **{how: command, "stdin": base64.b64encode(stdin).decode(), "timeout": timeout})
        out, err = out.decode(errors="replace"), err.decode(errors="replace")
        if check and rc:
            raise RuntimeError(f"exit code {rc} from {command}\n{out}\n{err}")
        return rc, out, err

    def put(self, source, target, mode=None):
        """A file (a path) or bytes to the guest."""
        if isinstance(source, str):
            mode = mode or os.stat(source).st_mode & 0o777
            with open(source, "rb") as f:
                source = f.read()
        rc, _, err = self._call(120, put=target, data=base64.b64encode(source).decode(), mode=mode or 0o644)
        if rc:
            raise RuntimeError(f"{target}: {err.decode()}")

    def get(self, path):
        rc, out, err = self._call(120, get=path)
        if rc:
            raise RuntimeError(f"{path}: {err.decode()}")
        return out

    def qmp(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.qmp_path)
            f = s.makefile("rw")
            f.readline()

            def do(name, args):
                f.write(json.dumps({"execute": name, "arguments": args}) + "\n")
                f.flush()
                while True:
                    reply = json.loads(f.readline())
                    if "return" in reply or "error" in reply:
                        return reply
            do("qmp_capabilities", {})
            return do(command, arguments)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        RUNNING.discard(self.process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self.start() if self.process is None else self

    def __exit__(self, *_):
        self.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--img", required=True, help="its folder: snap.py image")
    parser.add_argument("--rtc", help="for example base=2031-05-04T03:02:01,clock=vm")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    with VM(options.img, rtc=options.rtc) as vm:
        print(f"the agent answered after {vm.wait_agent():.1f} s")
        print(vm.run("systemctl is-system-running --wait; systemctl --failed --no-legend")[1])
        for command in options.command:
            rc, out, err = vm.run(command)
            print(f"$ {command}   [exit code {rc}]\n{out}{err}")


if __name__ == "__main__":
    main()

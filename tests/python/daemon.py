"""The real daemon in its simulated world, and one that says what a test wants said."""
import json
import os
import pathlib
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = str(ROOT / "src/python")
sys.path.insert(0, PYTHON)
BINARY = os.environ.get("LEADVILLE_TIMESYNC", str(ROOT / "target/debug/leadville-timesync"))

import leadville_timesync as lt  # noqa: E402


class Simulated:
    """`run --simulate`, until closed; synchronised when this returns."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.socket = self.folder.name + "/timesync.sock"
        self.process = subprocess.Popen([BINARY, "--socket", self.socket, "run", "--simulate", "--plain"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.until(lambda: lt.status(self.socket)["state"] == "synchronised", 60)

    def until(self, true, seconds):
        deadline = time.monotonic() + seconds
        while True:
            try:
                if true():
                    return
            except lt.TimesyncError:
                pass
            assert time.monotonic() < deadline and self.process.poll() is None, f"not within {seconds} s"
            time.sleep(0.1)

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        self.folder.cleanup()


class Pretended:
    """Answers as a daemon whose status is `status`; `tell` sends an event to all subscribers."""

    def __init__(self, status):
        self.status = dict(status)
        self.on_sync_now = lambda: None
        self.asked = []
        self.folder = tempfile.TemporaryDirectory()
        self.socket = self.folder.name + "/pretended.sock"
        self.subscribers = []
        outer = self

        class Desk(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    self.wfile.write(json.dumps(outer.answer(json.loads(line), self.wfile)).encode() + b"\n")

        self.server = socketserver.ThreadingUnixStreamServer(self.socket, Desk)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def offset(self, ms, bound_ms=0.2):
        self.status.update(offset_us=ms * 1e3, error_bound_us=bound_ms * 1e3, clock_drift_ms=ms)

    def answer(self, request, out):
        self.asked.append(request["do"])
        if request["do"] == "status":
            return {**self.status, "reply": "status"}
        if request["do"] == "sources":
            return {"v": 1, "reply": "sources", "servers": self.status["servers"]}
        if request["do"] == "subscribe":
            self.subscribers.append(out)
            return {"v": 1, "reply": "subscribed"}
        if request["do"] == "sync-now":
            self.on_sync_now()
            threading.Timer(0.05, self.tell, [{"event": "sync"}]).start()
            return {"v": 1, "reply": "ok", "message": "asking"}
        if request["do"] == "stamp":
            ahead = time.time_ns() - time.monotonic_ns() + int(self.status["offset_us"] * 1e3)
            utc_ns = request["monotonic_ns"] + ahead
            return {"v": 1, "reply": "stamp", "utc": "", "utc_ns": utc_ns, "bound_us": self.status["error_bound_us"]}
        return {"v": 1, "reply": "error", "error": "not pretended", "hint": None}

    def tell(self, event):
        for out in self.subscribers:
            try:
                out.write(json.dumps({"v": 1, **event}).encode() + b"\n")
            except (OSError, ValueError):
                pass

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()

"""A phone's time on a range without servers: the real page in a real browser whose clock is AHEAD of this machine's, behind
a line that takes 30 ms each way and more, against the real daemon, which may not touch this machine's clock."""
import json
import os
import pathlib
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "vm"))
from browser import Browser  # noqa: E402
from ntp_server import NtpServer, Servers  # noqa: E402

# What the phone's clock, and the truth of this test, is ahead of this machine's.
AHEAD = 90.0
BASE = 0.030
BARRED = ["setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time"] if os.geteuid() == 0 else []


class Line:
    """A TCP line to `port` on which everything takes BASE each way, and up to so much longer out and home."""

    def __init__(self, port, out, home):
        self.extra, self.to, self.count = (out, home), port, 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to))
            for s in (near, far):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, extra in ((near, far, self.extra[0]), (far, near, self.extra[1])):
                waiting = queue.Queue()
                threading.Thread(target=self._take, args=(source, waiting, extra), daemon=True).start()
                threading.Thread(target=self._give, args=(sink, waiting), daemon=True).start()

    def _take(self, source, waiting, extra):
        while True:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            self.count += 1
            # Not by chance, so that a failure comes again: 0, 1/7 … 6/7 of it in turn.
            waiting.put((time.monotonic() + BASE + extra * (self.count * 3 % 7) / 7, data))
            if not data:
                return

    @staticmethod
    def _give(sink, waiting):
        while True:
            due, data = waiting.get()
            time.sleep(max(due - time.monotonic(), 0))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return

    def close(self):
        self.listener.close()


class Alone:
    """A daemon whose only server is silent, and its page, which takes a phone's time."""

    def __init__(self, binaries, folder):
        self.binaries, self.socket, self.journal = binaries, f"{folder}/timesync.sock", pathlib.Path(folder, "journal")
        self.server = NtpServer(offset=AHEAD)
        self.server.on = False
        self.servers = Servers(self.server)
        config = pathlib.Path(folder, "timesync.toml")
        config.write_text(
            f'[ntp]\nservers = ["127.0.0.1:{self.server.port}"]\nsync_interval = "16s"\ntimeout = "1s"\n[clock]\nsteer = false\n'
            f'[state]\ndirectory = "{folder}"\n[control]\nsocket = "{self.socket}"\ngroup = ""\n[web]\nphone_time = true\n', encoding="ascii")
        log = self.journal.open("w")
        self.daemon = subprocess.Popen([*BARRED, binaries / "leadville-timesync", "run", "--config", config],
                                       stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.page = subprocess.Popen([binaries / "leadville-timesync-web", "--config", config, "--listen", "127.0.0.1:0"],
                                     stdout=subprocess.PIPE, text=True)
        self.port = int(self.page.stdout.readline().split(":")[-1].strip("/\n"))

    def status(self):
        out = subprocess.run([self.binaries / "leadville-timesync", "--socket", self.socket, "status", "--json"],
                             capture_output=True, text=True, timeout=20).stdout
        return json.loads(out) if out else {}

    def until(self, true, seconds, what):
        deadline = time.monotonic() + seconds
        while not true(self.status()):
            assert time.monotonic() < deadline, f"never: {what}; {self.status()}"
            time.sleep(0.2)

    def post(self, body, port=None, path="/api/set-time", **headers):
        """Status and text; a header of None is left out."""
        port = port or self.port
        sent = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {k: v for k, v in sent.items() if v}, method="POST")
        try:
            with urllib.request.urlopen(asked, timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def said(self, apply):
        """What an honest phone would send."""
        return {"utc_ms": (time.time() + AHEAD) * 1e3, "monotonic_ns": time.monotonic_ns(), "delay_ms": 1.0, "apply": apply}

    def close(self):
        for process in (self.page, self.daemon):
            process.terminate()
            process.wait(10)
        self.servers.stop()


class Phone(Browser):
    """Its clock is AHEAD of ours."""

    def __init__(self, url):
        super().__init__(width=390, height=844)
        ahead = f"const now = Date.now.bind(Date); Date.now = () => now() + {AHEAD * 1e3};"
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=ahead)
        self.open(url)

    def press(self, what):
        self.run(f"document.getElementById('{what}').click()")

    def offered(self):
        """The section is there, and asks nothing yet."""
        self.until("return !document.getElementById('phone').hidden && document.getElementById('phone-yes').hidden", 30)

    def asked(self):
        """Presses, and returns the words of the question."""
        self.press("phone-ask")
        self.until("return !document.getElementById('phone-yes').hidden", 20)
        return self.text("phone-words")


def a_phones_time_is_taken_after_a_yes_within_50_ms_and_gives_way_to_servers(binaries, folder, pictures):
    alone = Alone(binaries, folder)
    # Longer out than home: half of that difference no phone can see.
    line = Line(alone.port, out=0.040, home=0.010)
    try:
        with Phone(f"http://127.0.0.1:{line.port}/") as phone:
            phone.offered()
            phone.picture(pictures / "phone-offer.png")
            words = phone.asked()
            phone.picture(pictures / "phone-question.png")
            assert phone.run("return [...document.querySelectorAll('#phone button')].filter(b => b.offsetParent)"
                             ".every(b => b.getBoundingClientRect().height >= 44)"), "too small for a thumb"
            assert phone.run("return document.documentElement.scrollWidth - window.innerWidth") <= 0, "too wide"
            told = re.search(r"forward by (\d+\.\d+) s and be right within 2\.1 s", words)
            assert told and abs(float(told[1]) - AHEAD) < 0.06, words
            assert "Quickest round trip" in words and "right within 2 s" in words, words
            phone.press("phone-no")
            phone.offered()
            time.sleep(1.5)
            status = alone.status()
            assert status["by_hand"] is None and status["state"] == "unsynchronised" and status["offset_us"] is None, status
            assert "taken from a phone" not in alone.journal.read_text()

            phone.asked()
            phone.press("phone-yes")
            alone.until(lambda s: s.get("by_hand"), 10, "the phone's time is in force")
            status = alone.status()
            error = status["offset_us"] - AHEAD * 1e6
            bound = status["error_bound_us"]
            print(f"    {error / 1e3:+.1f} ms from the truth, bound {bound / 1e3:.0f} ms")
            assert abs(error) < 50e3, f"{error} µs from the truth"
            assert abs(error) < bound and 2.03e6 < bound < 2.2e6, f"{error} µs, bound {bound} µs"
            assert status["by_hand"]["how"] == "phone" and "taken from a phone" in status["verdict"], status["verdict"]
            assert not status["settled"] and not status["verified"] and status["steps"] == 0
            phone.until("return document.getElementById('phone-words').innerText.includes('The time is taken from a phone, within 2.1 s')", 5)
            phone.until("return document.getElementById('verdict').innerText.includes('taken from a phone')", 5)
            phone.until("return document.getElementById('events').innerText.includes('time taken from a phone')", 5)
            phone.picture(pictures / "phone-taken.png")
            assert "the time is taken from a phone, within 2.1 s" in alone.journal.read_text()

            alone.server.on = True
            subprocess.run([binaries / "leadville-timesync", "--socket", alone.socket, "sync-now"], check=True, capture_output=True)
            alone.until(lambda s: s.get("state") == "synchronised", 60, "the server is followed")
            phone.until("return document.getElementById('phone').hidden", 10)
            phone.picture(pictures / "phone-gone.png")
            assert phone.complaints() == []
        status = alone.status()
        assert status["by_hand"] is None and status["settled"] and abs(status["offset_us"] - AHEAD * 1e6) < 5e3, status
        code, text = alone.post(alone.said(True))
        assert code == 409 and "servers have said what time it is" in text, (code, text)
    finally:
        line.close()
        alone.close()


def nobody_but_the_page_itself_may_send_a_phones_time(binaries, folder, here):
    alone = Alone(binaries, folder)
    try:
        said = alone.said(True)
        for code, headers in ((403, {"Origin": None}), (403, {"Origin": "http://evil.example"}), (403, {"Origin": "null"}),
                              (403, {"Sec_Fetch_Site": "cross-site"}), (403, {"Host": "evil.example", "Origin": "http://evil.example"}),
                              (415, {"Content_Type": "text/plain"})):
            got, text = alone.post(said, **headers)
            assert got == code, (code, headers, got, text)
        assert alone.post(said, path="/api/status")[0] == 405
        assert alone.post(b"[" * 2_000)[0] == 413
        assert alone.post({**said, "how": "set-time"})[0] == 400
        assert alone.post({**said, "monotonic_ns": said["monotonic_ns"] - 120 * 10**9})[0] == 409
        assert alone.status()["by_hand"] is None
        codes = [alone.post(alone.said(False))[0] for _ in range(12)]
        assert 200 in codes and codes[-1] == 429, codes
        assert alone.status()["by_hand"] is None, "a try changes nothing"
        # A page that was not told to offers nothing of the kind.
        port = int(here.url.split(":")[-1].strip("/"))
        assert alone.post(said, port)[0] == 405
        try:
            urllib.request.urlopen(here.url + "api/clock", timeout=10)
            raise AssertionError("a clock that is not offered")
        except urllib.error.HTTPError as error:
            assert error.code == 404
    finally:
        alone.close()

"""The page's server among people who mean no good, and in a crowd."""
import datetime
import json
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from daemon import BINARY, Pretended, Simulated, lt

RELEASE = "/release/" in BINARY


def setUpModule():
    global real
    real = Simulated()


def tearDownModule():
    real.close()


class Month(Pretended):
    """Remembers as much of thirty days as a record can hold."""

    def answer(self, request, out):
        if request["do"] not in ("history", "record"):
            return super().answer(request, out)
        today = datetime.datetime.fromtimestamp(self.status["utc_ns"] // 10 ** 9, datetime.timezone.utc).replace(hour=0, minute=0, second=0)
        if "day" not in request:
            days = [(today - datetime.timedelta(days=n)).strftime("%Y-%m-%d") for n in range(30, -1, -1)]
            return {"v": 1, "reply": request["do"], "history": [], "days": days}

        def at(seconds):
            return f"{request['day']}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"
        point = {"offset_us": 12.5, "error_bound_us": 1500.25, "frequency_ppm": -3.25, "temperature_c": 51.2,
                 "low_us": -100.5, "high_us": 99.1, "measurements": 4, "state": "synchronised"}
        return {"v": 1, "reply": "record", "points": [{**point, "time": at(300 * k)} for k in range(288)],
                "marks": [{"time": at(200 * k), "kind": "state", "text": "x" * 110} for k in range(400)], "damaged": 0}


class Page(unittest.TestCase):
    def setUp(self):
        self.begin(real.socket)
        self.addCleanup(lambda: self.close())

    def begin(self, where):
        self.process = subprocess.Popen([BINARY + "-web", "--socket", where, "--listen", "0.0.0.0:0"],
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().rstrip("/\n").rsplit(":", 1)[1])
        self.open = []

    def close(self):
        for s in self.open:
            s.close()
        self.process.terminate()
        self.assertEqual(self.process.wait(5), 0, "it does not end when told to")
        self.process.stdout.close()

    def connect(self, source="127.0.0.1"):
        s = socket.create_connection(("127.0.0.1", self.port), 5, (source, 0))
        self.open.append(s)
        return s

    def get(self, path, host="127.0.0.1", source="127.0.0.1"):
        with socket.create_connection(("127.0.0.1", self.port), 5, (source, 0)) as s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            said = b""
            while part := s.recv(65536):
                said += part
        head, _, body = said.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def resident(self, name="VmHWM"):
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    def side_by_side(self, path, n, times=4):
        codes = []

        def ask():
            for _ in range(times):
                codes.append(self.get(path)[0])
        crowd = [threading.Thread(target=ask) for _ in range(n)]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join(60)
        return codes

    def watchers(self, n, source="127.0.0.1"):
        for _ in range(n):
            s = self.connect(source)
            s.sendall(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            self.assertIn(b"200 OK", s.recv(200))

            def drain(s=s):
                try:
                    while s.recv(65536):
                        pass
                except OSError:
                    pass
            threading.Thread(target=drain, daemon=True).start()

    def test_the_figures_are_open_metrics(self):
        code, body = self.get("/metrics")
        self.assertEqual(code, 200)
        # Debian's Python has the parser of those who made the format.
        read = ("import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as read; "
                "print(*(f'{family.name} {family.type}' for family in read(sys.stdin.read())), sep='\\n')")
        parsed = subprocess.run(["/usr/bin/python3", "-c", read], input=body, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(parsed.returncode, 0, parsed.stderr.decode() + body.decode())
        families = parsed.stdout.decode().splitlines()
        self.assertGreater(len(families), 10, families)
        self.assertTrue(all(f.startswith("leadville_") for f in families), families)

    def test_a_name_of_the_wide_world_that_leads_here_is_refused(self):
        for host in (f"127.0.0.1:{self.port}", "raspberrypi.local", "range", f"[::1]:{self.port}"):
            self.assertEqual(self.get("/api/status", host)[0], 200, host)
        for host in ("evil.example", f"evil.example:{self.port}", "127.0.0.1.evil.example"):
            code, body = self.get("/api/status", host)
            self.assertEqual((code, b"servers" in body), (421, False), host)

    def test_fifty_who_want_the_chart_at_once_all_get_it_and_the_daemon_still_answers_others(self):
        answers = []

        def status():
            for _ in range(5):
                asked = subprocess.run([BINARY, "--socket", real.socket, "status", "--json"], capture_output=True, timeout=20)
                answers.append(json.loads(asked.stdout)["reply"])
        other = threading.Thread(target=status)
        other.start()
        codes = self.side_by_side("/chart.svg?since=7d&width=360", 50)
        self.watchers(50)
        codes += self.side_by_side("/chart.svg?since=7d&width=360", 12) + self.side_by_side("/api/history?since=30d", 12)
        other.join(60)
        self.assertEqual(set(codes), {200}, codes)
        self.assertEqual(answers, ["status"] * 5)
        self.assertLess(self.resident(), 6 * 1024 if RELEASE else 20 * 1024)

    def test_a_month_that_is_full_is_shown_in_little_memory(self):
        month = Month(lt.status(real.socket))
        self.addCleanup(month.close)
        self.close()
        self.begin(month.socket)
        for path in ("/chart.svg?since=30d&width=360", "/api/history?since=30d", "/api/history?since=366d"):
            code, body = self.get(path)
            self.assertEqual(code, 200)
            self.assertTrue(20_000 < len(body) < 200_000, f"{path}: {len(body)} bytes")
        past = json.loads(body)
        self.assertEqual(past["marks"], sorted(past["marks"], key=lambda m: m["time"]))
        self.assertTrue(200 <= len(past["marks"]) <= 300 and past["points"][0]["time"] < past["points"][-1]["time"])
        self.assertLess(self.resident(), 6 * 1024 if RELEASE else 20 * 1024)

    def test_half_a_request_keeps_nobody_else_out(self):
        for _ in range(200):
            try:
                self.connect().sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 7000)
            except OSError:
                pass
        for source in ("127.0.0.1", "127.0.0.2"):
            started = time.monotonic()
            self.assertEqual(self.get("/", source=source)[0], 200, source)
            self.assertLess(time.monotonic() - started, 2, source)
        self.assertLess(self.resident(), 6 * 1024 if RELEASE else 20 * 1024)

    def test_who_opens_a_hundred_streams_keeps_no_other_address_out(self):
        for _ in range(200):
            try:
                s = self.connect("127.0.0.3")
                s.sendall(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            except OSError:
                pass
        time.sleep(0.5)
        self.assertEqual(self.get("/")[0], 200)
        self.watchers(50)

    def test_nonsense_is_answered_or_closed_and_it_lives_on(self):
        for text in (b"\0" * 100, b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                     b"GET /chart.svg?since=1h&width=-1 HTTP/1.1\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
                     b"GET /chart.svg?since=99999999999999999999d HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"):
            s = self.connect()
            try:
                s.sendall(text)
                said = s.recv(65536)
            except OSError:
                continue
            self.assertNotIn(b"root:", said)
        self.assertEqual(self.get("/chart.svg?since=1h&width=4294967295")[0], 200)
        self.assertEqual(self.get("/")[0], 200)


class PhoneTime(unittest.TestCase):
    """A phone's time, sent as the page sends it and otherwise; no server is asked."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        config, self.socket = pathlib.Path(folder.name, "timesync.toml"), folder.name + "/timesync.sock"
        config.write_text("[ntp]\nenabled = false\n[web]\nphone_time = true\n", encoding="ascii")
        daemon = subprocess.Popen([BINARY, "--socket", self.socket, "run", "--simulate", "--plain", "--config", config],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.page = subprocess.Popen([BINARY + "-web", "--config", config, "--socket", self.socket, "--listen", "127.0.0.1:0"],
                                     stdout=subprocess.PIPE, text=True)
        self.port = int(self.page.stdout.readline().rstrip("/\n").rsplit(":", 1)[1])

        def end():
            for process in (self.page, daemon):
                process.terminate()
                process.wait(10)
            self.page.stdout.close()
        self.addCleanup(end)
        deadline = time.monotonic() + 20
        while not pathlib.Path(self.socket).exists():
            self.assertLess(time.monotonic(), deadline, "the daemon does not start")
            time.sleep(0.05)

    def post(self, body, source="127.0.0.1", **headers):
        sent = {"Host": f"127.0.0.1:{self.port}", "Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json",
                "Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}
        with socket.create_connection(("127.0.0.1", self.port), 10, (source, 0)) as s:
            lines = "".join(f"{k}: {v}\r\n" for k, v in sent.items() if v)
            s.sendall(f"POST /api/set-time HTTP/1.1\r\nConnection: close\r\n{lines}\r\n".encode() + body)
            said = b""
            while part := s.recv(65536):
                said += part
        head, _, text = said.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(text)

    def said(self, apply, **changes):
        status = lt.status(self.socket)
        said = {"utc_ms": status["utc_ns"] / 1e6 + 5000, "monotonic_ns": status["monotonic_ns"], "delay_ms": 60, "apply": apply}
        return json.dumps(said | changes).encode()

    def by_hand(self):
        return lt.status(self.socket)["by_hand"]

    def test_only_the_page_itself_is_heard_and_only_what_it_says(self):
        said = self.said(True)
        for code, headers in ((403, {"Origin": None}), (403, {"Origin": "http://evil.example"}), (403, {"Sec_Fetch_Site": "cross-site"}),
                              (403, {"Host": "evil.example", "Origin": "http://evil.example"}), (415, {"Content_Type": "text/plain"}),
                              (413, {"Content_Length": "100000"})):
            self.assertEqual(self.post(said, **headers)[0], code, headers)
        self.assertEqual(self.post(b"[" * 600)[0], 413)
        self.assertEqual(self.post(self.said(True, how="set-time"))[0], 400)
        self.assertEqual(self.post(self.said(True, delay_ms=1e6))[0], 400)
        began = time.monotonic()
        self.assertEqual(self.post(said[:-5], Content_Length=str(len(said)))[0], 408, "what never ends is given up")
        self.assertLess(time.monotonic() - began, 8)
        self.assertIsNone(self.by_hand())

    def test_a_try_changes_nothing_a_yes_does_and_ten_a_minute_are_heard(self):
        code, told = self.post(self.said(False))
        self.assertEqual((code, told["reply"], told["moves"]), (200, "weighed", True), told)
        self.assertAlmostEqual(told["offset_us"], 5e6, delta=5e4)
        self.assertAlmostEqual(told["bound_us"], 2.03e6, delta=1e3)
        self.assertIsNone(self.by_hand())
        self.assertEqual(self.post(self.said(True))[0], 200)
        self.assertEqual(self.by_hand()["how"], "phone")
        self.assertEqual(self.page.stdout.readline(), "the time of a phone at 127.0.0.1 is taken\n")
        codes = [self.post(self.said(False))[0] for _ in range(12)]
        self.assertEqual(codes[-1], 429, codes)
        self.assertEqual(self.post(self.said(False), source="127.0.0.2")[0], 200, "one that asks too much takes nothing from others")


if __name__ == "__main__":
    unittest.main()

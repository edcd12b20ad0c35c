"""Publishing to a real mosquitto: down at the start, killed and restarted, slow; the last will."""
import copy
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from daemon import BINARY, Pretended, Simulated, lt

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def setUpModule():
    global real, template
    real = Simulated()
    template = lt.status(real.socket)


def tearDownModule():
    real.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Broker:
    """A mosquitto that keeps nothing, as after a power cut."""

    def __init__(self, more=""):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        self.file = pathlib.Path(self.folder.name) / "mosquitto.conf"
        self.file.write_text(more or "allow_anonymous true\n")
        self.process = None

    def start(self):
        with open(self.file) as f:
            text = f.read()
        text = "\n".join(line for line in text.splitlines() if not line.startswith("listener"))
        self.file.write_text(f"{text}\nlistener {self.port} 127.0.0.1\n")
        user = ["-c", str(self.file)]
        self.process = subprocess.Popen([MOSQUITTO, *user], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < deadline, "mosquitto does not start"
                time.sleep(0.05)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def close(self):
        self.kill()
        self.folder.cleanup()


class Ear:
    """mosquitto_sub on everything: (retained, topic, JSON)."""

    def __init__(self, port, *more):
        self.heard = []
        self.process = subprocess.Popen(["mosquitto_sub", "-p", str(port), "-q", "1", "-t", "#", "-F", "%r %t %p", *more],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        for line in self.process.stdout:
            retained, topic, text = line.rstrip("\n").split(" ", 2)
            self.heard.append((retained == "1", topic, json.loads(text)))

    def until(self, true, seconds=20):
        deadline = time.monotonic() + seconds
        while not any(true(*message) for message in self.heard):
            assert time.monotonic() < deadline, f"not within {seconds} s; heard {[m[:2] for m in self.heard]}"
            time.sleep(0.05)

    def of(self, topic):
        return [said for _, t, said in self.heard if t == topic]

    def close(self):
        self.process.kill()
        self.process.wait(10)
        self.thread.join(5)
        self.process.stdout.close()


class Slow:
    """A way to the broker on which everything takes `delay` seconds."""

    def __init__(self, port, delay):
        self.delay, self.broker = delay, port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                ours, _ = self.listener.accept()
            except OSError:
                return
            theirs = socket.create_connection(("127.0.0.1", self.broker))
            for a, b in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, a, b):
        try:
            while data := a.recv(65536):
                time.sleep(self.delay)
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


class Publisher:
    """The second program, publishing what the daemon at `where` says."""

    def __init__(self, where, port, more="", prefix="leadville"):
        self.folder = tempfile.TemporaryDirectory()
        file = pathlib.Path(self.folder.name) / "timesync.toml"
        file.write_text(f'[mqtt]\nenabled = true\nbroker = "127.0.0.1:{port}"\nprefix = "{prefix}"\n{more}')
        self.process = subprocess.Popen([BINARY + "-web", "--config", str(file), "--socket", where],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.said = b""

    def says(self, words, seconds=20):
        deadline = time.monotonic() + seconds
        while words not in self.said:
            left = deadline - time.monotonic()
            assert left > 0, self.said
            if select.select([self.process.stderr], [], [], left)[0]:
                self.said += os.read(self.process.stderr.fileno(), 4096)

    def close(self):
        self.process.terminate()
        try:
            assert self.process.wait(5) == 0, "it does not end when told to"
        finally:
            self.process.stderr.close()
            self.folder.cleanup()


class Mqtt(unittest.TestCase):
    def broker(self, **options):
        broker = Broker(**options)
        self.addCleanup(broker.close)
        return broker

    def ear(self, port, *more):
        ear = Ear(port, *more)
        self.addCleanup(ear.close)
        return ear

    def publisher(self, *arguments, **options):
        publisher = Publisher(*arguments, **options)
        self.addCleanup(publisher.close)
        return publisher

    def pretended(self):
        pretended = Pretended(copy.deepcopy(template))
        self.addCleanup(pretended.close)
        return pretended

    def subscribed(self, pretended):
        deadline = time.monotonic() + 10
        while not pretended.subscribers:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_a_broker_that_is_down_at_the_start_gets_all_when_it_comes(self):
        broker, pretended = self.broker(), self.pretended()
        publisher = self.publisher(pretended.socket, broker.port, prefix="range/bay")
        publisher.says(b"cannot be reached")
        self.subscribed(pretended)
        pretended.tell({"event": "alert", "level": "drift", "worst_us": 21000.0})
        time.sleep(0.5)
        broker.start()
        ear = self.ear(broker.port)
        ear.until(lambda retained, topic, said: topic == "range/bay/timesync/status" and said["state"] == "synchronised")
        ear.until(lambda retained, topic, said: topic == "range/bay/timer/status" and said["online"])
        publisher.says(b"publishing to the broker")
        late = self.ear(broker.port)
        late.until(lambda retained, topic, said: topic == "range/bay/timesync/status" and retained)
        late.until(lambda retained, topic, said: topic == "range/bay/timer/status" and retained)
        self.assertTrue(all(topic.startswith("range/bay/") for _, topic, _ in ear.heard))

    def test_shots_of_the_running_daemon_arrive_with_their_date(self):
        broker = self.broker().start()
        ear = self.ear(broker.port)
        self.publisher(real.socket, broker.port)
        ear.until(lambda retained, topic, said: topic == "leadville/timer/events" and said["type"] == "shot", 60)
        shot = next(said for said in ear.of("leadville/timer/events") if said["type"] == "shot")
        self.assertGreater(shot["utc_ns"], 10 ** 18)
        self.assertGreater(shot["bound_us"], 0)
        self.assertIn("of UTC", ear.of("leadville/timesync/status")[0]["verdict"])

    def test_over_a_restart_of_the_broker_no_event_is_lost(self):
        broker, pretended = self.broker().start(), self.pretended()
        publisher = self.publisher(pretended.socket, broker.port)
        publisher.says(b"publishing to the broker")
        self.subscribed(pretended)
        ear = self.ear(broker.port)
        ear.until(lambda retained, topic, said: topic == "leadville/timesync/status")
        broker.kill()
        for n in range(20):
            pretended.tell({"event": "timer", "type": "shot", "shot_number": n})
        pretended.tell({"event": "alert", "level": "drift", "worst_us": 21000.0})
        publisher.says(b"trying on")
        broker.start()
        ear = self.ear(broker.port)
        ear.until(lambda retained, topic, said: topic == "leadville/timesync/alerts" and said["level"] == "drift")
        ear.until(lambda retained, topic, said: topic == "leadville/timesync/status")
        shots = [said["shot_number"] for said in ear.of("leadville/timer/events")]
        self.assertEqual(shots, sorted(shots))
        # What was under way when it died may come twice; the subscriber itself may be late for the first.
        self.assertLessEqual(set(range(5, 20)), set(shots))

    def test_a_slow_broker_gets_everything_in_order(self):
        broker, pretended = self.broker().start(), self.pretended()
        slow = Slow(broker.port, 0.3)
        self.addCleanup(slow.close)
        publisher = self.publisher(pretended.socket, slow.port)
        publisher.says(b"publishing to the broker")
        self.subscribed(pretended)
        ear = self.ear(broker.port)
        for n in range(12):
            pretended.tell({"event": "timer", "type": "shot", "shot_number": n})
        ear.until(lambda retained, topic, said: said.get("shot_number") == 11, 40)
        self.assertEqual([said["shot_number"] for said in ear.of("leadville/timer/events")], list(range(12)))
        ear.until(lambda retained, topic, said: topic == "leadville/timesync/status", 10)

    def test_the_last_will_says_that_nobody_publishes_and_a_lost_daemon_is_told(self):
        broker, pretended = self.broker().start(), self.pretended()
        publisher = self.publisher(pretended.socket, broker.port)
        ear = self.ear(broker.port)
        ear.until(lambda retained, topic, said: topic == "leadville/timer/status" and said["online"])
        pretended.server.shutdown()
        pretended.server.server_close()
        os.unlink(pretended.socket)
        for out in pretended.subscribers:
            out._sock.shutdown(socket.SHUT_RDWR)
        ear.until(lambda retained, topic, said: topic == "leadville/timesync/status" and said["reply"] == "error")
        ear.until(lambda retained, topic, said: topic == "leadville/timer/status" and not said["online"])
        told = len(ear.of("leadville/timer/status"))
        publisher.process.send_signal(signal.SIGTERM)
        ear.until(lambda *_: len(ear.of("leadville/timer/status")) > told)
        self.assertEqual(ear.of("leadville/timer/status")[-1], {"v": 1, "online": False, "timers": []})

    def test_a_password_is_read_and_a_wrong_one_is_told(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        known, secret = folder.name + "/users", pathlib.Path(folder.name) / "secret"
        subprocess.run(["mosquitto_passwd", "-b", "-c", known, "range", "right"], check=True, capture_output=True)
        os.chmod(folder.name, 0o755)
        os.chmod(known, 0o644)
        broker = self.broker(more=f"allow_anonymous false\npassword_file {known}\n").start()
        login = f'user = "range"\npassword_file = "{secret}"\n'
        secret.write_text("wrong\n")
        self.publisher(real.socket, broker.port, more=login).says(b"refuses us")
        secret.write_text("right\n")
        self.publisher(real.socket, broker.port, more=login).says(b"publishing to the broker")
        ear = self.ear(broker.port, "-u", "range", "-P", "right")
        ear.until(lambda retained, topic, said: topic == "leadville/timesync/status")


if __name__ == "__main__":
    unittest.main()

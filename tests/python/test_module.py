"""The module for programs, and the former programs run on it, against the running daemon."""
import asyncio
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from daemon import BINARY, PYTHON, ROOT, Pretended, Simulated, lt
from impact_bridge.time_sync import TimeSynchronizer


def setUpModule():
    global real
    real = Simulated()


def tearDownModule():
    real.close()


# What the former package looks like from here: modules that import one another relatively.
FORMER = {
    "impact_bridge/__init__.py": "__version__ = 'former'\n",
    "impact_bridge/time_sync.py": "from .ntp_client import NTPClient\nclass TimeSynchronizer: pass\nclass TimeSyncIntegration: pass\n",
    "impact_bridge/ntp_client.py": "import a_module_that_is_not_installed\n",
    "impact_bridge/amg_timer_manager.py": '''
from .time_sync import TimeSynchronizer, TimeSyncIntegration
class AMGTimerManager:
    def __init__(self, config):
        self.time_synchronizer = TimeSynchronizer(**config["amg_timer"].get("time_synchronization", {}))
        self.time_sync_integration = TimeSyncIntegration(self.time_synchronizer)
        self.updates = 0
    async def start(self):
        await self.time_synchronizer.start_sync_monitoring()
        self.time_synchronizer.set_sync_callback(self._on_sync_update)
    async def _on_sync_update(self, status):
        self.updates += 1
    async def stop(self):
        await self.time_synchronizer.stop_sync_monitoring()
''',
    "program.py": '''
import asyncio, json, sys
from impact_bridge.amg_timer_manager import AMGTimerManager
import impact_bridge, impact_bridge.time_sync
config = {"amg_timer": {"time_synchronization": {"enabled": True, "sync_interval_minutes": 5, "drift_threshold_ms": 20,
    "enable_correction": True, "ntp": {"enabled": True, "servers": ["pool.ntp.org"], "timeout_seconds": 10, "max_retries": 3}}}}
async def main():
    manager = AMGTimerManager(config)
    await manager.start()
    await manager.time_synchronizer.force_sync_check()
    dated = await manager.time_sync_integration.handle_amg_timer_event({"shot_state": "ACTIVE", "current_shot": 1})
    await manager.stop()
    status = manager.time_synchronizer.get_sync_status()
    print(json.dumps({"package": impact_bridge.__version__, "module": impact_bridge.time_sync.TimeSynchronizer.__module__,
                      "updates": manager.updates, "quality": status.sync_quality, "bound_us": dated.bound_us, "argv": sys.argv[1:],
                      "summary": manager.time_synchronizer.get_sync_summary()}))
asyncio.run(main())
''',
}


class Module(unittest.TestCase):
    def test_the_status_has_words_and_figures(self):
        status = lt.status(real.socket)
        self.assertIn("of UTC", status["verdict"])
        self.assertIsInstance(status["offset_us"], float)
        self.assertEqual(len(lt.sources(real.socket)), 4)
        self.assertGreater(len(lt.history(real.socket)), 0)

    def test_the_corrected_time_is_the_stamp_of_now(self):
        status, before = lt.status(real.socket), lt.corrected_time(real.socket)
        self.assertEqual(before.utcoffset(), datetime.timedelta(0))
        known = lt.utc_of(status["corrected_utc_ns"])
        self.assertLess(abs((before - known).total_seconds()), 0.5)

    def test_a_stamp_dates_the_past_with_a_bound(self):
        now = time.monotonic_ns()
        here, earlier = lt.stamp(now, real.socket), lt.stamp(now - 5_000_000_000, real.socket)
        self.assertAlmostEqual((here.utc_ns - earlier.utc_ns) * 1e-9, 5.0, places=3)
        self.assertGreater(here.bound_us, 0)
        with self.assertRaises(lt.Refused):
            lt.stamp(now + 10 ** 18, real.socket)

    def test_events_come_as_they_happen(self):
        seen = []
        followed = lt.events(real.socket)

        def listen():
            for event in followed:
                seen.append(event)
                if event["event"] == "unlock":
                    return

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        lt.lock("match", 600, real.socket)
        self.assertIn("match", [held["name"] for held in lt.status(real.socket)["locks"]])
        lt.unlock("match", real.socket)
        listener.join(5)
        kinds = [event["event"] for event in seen]
        self.assertLess(kinds.index("lock"), kinds.index("unlock"))

    def test_the_example_unit_plays_a_sound_at_an_alert_and_another_after_it(self):
        unit = (ROOT / "config/examples/leadville-alert-sound.service").read_text()
        command = unit.split("ExecStart=/bin/sh -c '")[1].split("'\n")[0].replace("\\\n", "")
        pretended = Pretended({})
        self.addCleanup(pretended.close)
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            for name, does in (("aplay", f'echo "$2" >> {folder}/played'),
                               ("leadville-timesync", f'exec {BINARY} --socket {pretended.socket} "$@"')):
                (place / name).write_text(f"#!/bin/sh\n{does}\n")
                (place / name).chmod(0o755)
            player = subprocess.Popen(["/bin/sh", "-c", command], env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
                                      stderr=subprocess.DEVNULL, start_new_session=True)
            try:
                deadline = time.monotonic() + 20
                while not pretended.subscribers:
                    self.assertLess(time.monotonic(), deadline, "it does not listen")
                    time.sleep(0.05)
                for event in ("sync", "alert", "quality", "alert_cleared"):
                    pretended.tell({"event": event})
                played = place / "played"
                while not played.exists() or len(played.read_text().splitlines()) < 2:
                    self.assertLess(time.monotonic(), deadline, "no sound")
                    time.sleep(0.05)
                sounds = [pathlib.Path(line).name for line in played.read_text().splitlines()]
                self.assertEqual(sounds, ["Front_Center.wav", "Rear_Center.wav"])
            finally:
                os.killpg(player.pid, 15)
                player.wait(5)

    def test_without_a_daemon_it_is_a_sentence_with_a_hint(self):
        with self.assertRaises(lt.NotRunning) as caught:
            lt.status("/nonexistent/socket")
        self.assertIn("no time daemon", str(caught.exception))
        self.assertIn("systemctl start", caught.exception.hint)
        with self.assertRaises(lt.Refused):
            lt.unlock("nobody", real.socket)

    def test_a_synchronizer_without_a_daemon_says_unknown_and_finds_it_when_it_comes(self):
        async def cycle():
            daemon = Simulated()
            sync = TimeSynchronizer(socket_path=daemon.socket)
            grades = []
            sync.set_sync_callback(lambda status: grades.append(status.sync_quality))
            await sync.start_sync_monitoring()
            await asyncio.sleep(1)
            daemon.process.terminate()
            daemon.process.wait(10)
            await asyncio.sleep(3)
            self.assertEqual(grades[-1], "unknown", "a figure of a daemon that is gone")
            self.assertIn("no time daemon", sync.get_sync_status().verdict)
            ahead = sync.get_corrected_time() - datetime.datetime.now(datetime.timezone.utc)
            self.assertLess(abs(ahead.total_seconds()), 0.1)
            await sync.stop_sync_monitoring()
            daemon.close()
            return grades

        grades = asyncio.run(cycle())
        self.assertIn(grades[0], ("excellent", "good", "fair"))


class FormerPrograms(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name, text in FORMER.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)

    def run_python(self, *arguments, path):
        return subprocess.run([sys.executable, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PYTHONPATH": path, "LEADVILLE_SOCKET": real.socket,
                                   "PYTHONDONTWRITEBYTECODE": "1"})

    def check(self, ran):
        self.assertEqual(ran.returncode, 0, ran.stderr)
        said = json.loads(ran.stdout)
        self.assertEqual((said["package"], said["module"]), ("former", "leadville_timesync.time_sync"))
        self.assertIn(said["quality"], ("excellent", "good", "fair"))
        self.assertGreaterEqual(said["updates"], 1)
        self.assertGreater(said["bound_us"], 0)
        self.assertGreaterEqual(said["summary"]["ntp_summary"]["servers_successful"], 2)
        return said

    def test_the_timer_manager_gets_ours_with_one_line_in_its_unit(self):
        self.check(self.run_python("program.py", path=f"{PYTHON}/drop-in:{PYTHON}"))

    def test_the_timer_manager_gets_ours_when_started_through_us(self):
        said = self.check(self.run_python("-m", "leadville_timesync.drop_in", "program.py", "--an", "option", path=PYTHON))
        self.assertEqual(said["argv"], ["--an", "option"])
        self.check(self.run_python("-m", "leadville_timesync.drop_in", "-m", "program", path=PYTHON))

    def test_the_former_package_is_not_hidden_by_ours_unless_asked_for(self):
        ran = self.run_python("-c", "import impact_bridge; print(impact_bridge.__version__)", path=f"{PYTHON}:{self.folder}")
        self.assertEqual(ran.stdout, "former\n", ran.stderr)
        ran = self.run_python("-c", "import impact_bridge.time_sync", path=f"{PYTHON}:{self.folder}")
        self.assertIn("a_module_that_is_not_installed", ran.stderr, "its own time_sync must be the one imported")

    def test_without_the_former_package_its_import_works(self):
        code = "from impact_bridge.time_sync import TimeSynchronizer as T; print(T.__module__)"
        ran = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=20,
                             env={"PYTHONPATH": PYTHON, "PYTHONDONTWRITEBYTECODE": "1"})
        self.assertEqual(ran.stdout, "leadville_timesync.time_sync\n", ran.stderr)


if __name__ == "__main__":
    unittest.main()

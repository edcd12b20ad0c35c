"""The former system's 23 cases with true expectations. What needs a certain offset is said by a
pretended daemon whose every other field is the real one's."""
import asyncio
import copy
import datetime
import json
import unittest

from daemon import Pretended, Simulated, lt
from impact_bridge.ntp_client import NTPClient, NTPSyncResult
from impact_bridge.time_sync import TimeSynchronizer, TimeSyncStatus


def setUpModule():
    global real, template
    real = Simulated()
    real.until(lambda: sum(s["role"] == "selected" for s in lt.status(real.socket)["servers"]) >= 2, 60)
    template = lt.status(real.socket)


def tearDownModule():
    real.close()


class WithDaemon(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.pretended = Pretended(copy.deepcopy(template))
        self.addCleanup(self.pretended.close)

    def sync(self, where=None, **options):
        return TimeSynchronizer(socket_path=where or self.pretended.socket, **options)


class Synchronizer(WithDaemon):
    def test_01_defaults(self):
        sync = TimeSynchronizer()
        self.assertEqual((sync.enabled, sync.ntp_enabled, sync.enable_correction), (True, True, True))
        self.assertEqual((sync.drift_threshold_ms, sync.sync_interval_minutes), (20.0, 5.0))
        self.assertIsNotNone(sync.ntp_client)

    def test_02_custom_values(self):
        sync = TimeSynchronizer(sync_interval_minutes=2.0, drift_threshold_ms=10.0, enabled=False, ntp_enabled=False,
                                enable_correction=False)
        self.assertEqual((sync.enabled, sync.ntp_enabled, sync.enable_correction), (False, False, False))
        self.assertEqual((sync.drift_threshold_ms, sync.sync_interval_minutes), (10.0, 2.0))
        self.assertIsNone(sync.ntp_client)

    def test_03_initial_status(self):
        status = self.sync().get_sync_status()
        self.assertIsInstance(status, TimeSyncStatus)
        self.assertEqual((status.sync_count, status.clock_drift_ms, status.sync_quality), (0, 0.0, "unknown"))
        self.assertIsNone(status.to_dict()["last_sync_time"])
        self.assertTrue(status.ntp_enabled)

    async def test_04_three_callbacks_plain_and_awaited(self):
        for how in ("plain", "awaited"):
            sync, told = self.sync(drift_threshold_ms=10.0), []

            def listener(kind):
                async def awaited(value):
                    await asyncio.sleep(0)
                    told.append((kind, value))
                return awaited if how == "awaited" else (lambda value: told.append((kind, value)))

            sync.set_sync_callback(listener("sync"))
            sync.set_drift_alert_callback(listener("alert"))
            sync.set_correction_callback(listener("correction"))
            self.pretended.status["correction_applied_ms"] = 0.0
            self.pretended.offset(15.0)
            await sync.force_sync_check()
            self.pretended.status["correction_applied_ms"] = 15.0
            self.pretended.offset(0.0)
            await sync.force_sync_check()
            self.assertEqual([kind for kind, _ in told], ["alert", "sync", "correction", "sync"], how)

    async def test_05_start_and_stop(self):
        sync, seen = self.sync(real.socket, sync_interval_minutes=0.01), []
        await sync.start_sync_monitoring()
        sync.set_sync_callback(lambda status: seen.append(status.sync_count))
        await asyncio.sleep(1.6)
        await sync.stop_sync_monitoring()
        self.assertTrue(sync._stop_requested)
        count = len(seen)
        self.assertGreaterEqual(count, 2)
        await asyncio.sleep(0.8)
        self.assertEqual(len(seen), count, "it goes on after the stop")

    async def test_06_a_forced_check_without_ntp_invents_nothing(self):
        sync, seen = self.sync(real.socket, ntp_enabled=False), []
        sync.set_sync_callback(seen.append)
        await sync.force_sync_check()
        status = sync.get_sync_status()
        self.assertEqual((status.sync_count, status.failure_count, status.sync_quality), (0, 1, "unknown"))
        self.assertEqual((status.clock_drift_ms, status.last_sync_time, len(seen)), (0.0, None, 1))

    async def test_07_a_drift_alert_comes_once(self):
        sync, alerts = self.sync(drift_threshold_ms=10.0, enable_correction=False), []
        sync.set_drift_alert_callback(alerts.append)
        self.pretended.offset(15.0)
        for _ in range(3):
            await sync.force_sync_check()
        self.assertEqual(alerts, [15.0])
        self.pretended.offset(9.0)  # between the limits: the same episode
        await sync.force_sync_check()
        self.pretended.offset(15.0)
        await sync.force_sync_check()
        self.assertEqual(alerts, [15.0])
        for ms in (1.0, -15.0):
            self.pretended.offset(ms)
            await sync.force_sync_check()
        self.assertEqual(alerts, [15.0, -15.0])

    async def test_08_a_correction_of_25_ms_leaves_nothing_and_is_reported_as_25(self):
        sync, corrections = self.sync(drift_threshold_ms=10.0), []
        sync.set_correction_callback(corrections.append)
        before = self.pretended.status["correction_applied_ms"]
        self.pretended.offset(25.0)
        await sync.force_sync_check()
        self.pretended.status["correction_applied_ms"] = before + 25.0
        self.pretended.offset(0.1)
        await sync.force_sync_check()
        status = sync.get_sync_status()
        self.assertEqual([round(c, 6) for c in corrections], [25.0])
        self.assertAlmostEqual(status.correction_applied_ms, 25.0)
        self.assertLess(abs(status.clock_drift_ms), 1.0)
        await sync.force_sync_check()
        self.assertEqual(len(corrections), 1, "applied once, told once")

    def test_09_corrected_time_is_ahead_by_the_offset(self):
        self.pretended.offset(100.0)
        ahead = self.sync().get_corrected_time() - datetime.datetime.now(datetime.timezone.utc)
        self.assertTrue(95 <= ahead.total_seconds() * 1e3 <= 105, ahead)

    async def test_10_reset(self):
        sync, told = self.sync(), []
        sync.set_correction_callback(told.append)
        sync.sync_status.correction_applied_ms = 100.0
        sync.reset_corrections()
        self.assertEqual((sync.get_sync_status().correction_applied_ms, told), (0.0, [0.0]))
        self.assertEqual(sync.get_sync_summary()["system_time_offset_ms"], 0.0)

    def test_11_five_levels(self):
        sync = self.sync()
        grades = [sync._assess_sync_quality(ms) for ms in (2.0, 7.0, 15.0, 40.0, 100.0)]
        self.assertEqual(grades, ["excellent", "good", "fair", "poor", "critical"])
        self.assertEqual([sync._assess_sync_quality(ms) for ms in (5, 10, 25, 50)], ["good", "fair", "poor", "critical"])

    def test_12_quality_without_ntp(self):
        self.assertEqual(self.sync(ntp_enabled=False)._assess_overall_sync_quality(5.0, "unknown"), "good")

    def test_13_quality_with_ntp_never_flatters(self):
        sync = self.sync()
        self.assertEqual(sync._assess_overall_sync_quality(7.0, "excellent"), "good")
        self.assertEqual(sync._assess_overall_sync_quality(100.0, "excellent"), "critical")

    async def test_14_summary(self):
        sync = self.sync(real.socket)
        await sync.force_sync_check()
        summary = json.loads(json.dumps(sync.get_sync_summary()))
        self.assertEqual((summary["enabled"], summary["ntp_enabled"]), (True, True))
        self.assertEqual((summary["drift_threshold_ms"], summary["sync_interval_minutes"]), (20.0, 5.0))
        self.assertEqual(set(summary), {"enabled", "sync_interval_minutes", "drift_threshold_ms", "status", "drift_history_count",
                                        "system_time_offset_ms", "ntp_enabled", "ntp_summary"})
        self.assertLessEqual({"servers_configured", "servers_successful", "best_offset_ms", "sync_quality", "last_sync_time",
                              "avg_delay_ms", "offset_std_ms"}, set(summary["ntp_summary"]))
        self.assertLessEqual({"last_sync_time", "clock_drift_ms", "sync_count", "max_drift_ms", "avg_drift_ms", "sync_quality",
                              "ntp_enabled", "ntp_offset_ms", "ntp_quality", "correction_applied_ms"}, set(summary["status"]))


class Client(WithDaemon):
    def source(self, name, role="selected", offset_ms=1.0, **more):
        sound = copy.deepcopy(next(s for s in template["servers"] if s["role"] == "selected"))
        return {**sound, "name": name, "role": role, "offset_us": offset_ms * 1e3, "last_reply_s": 3.0, **more}

    def client(self, *sources, **options):
        self.pretended.status["servers"] = list(sources)
        return NTPClient([s["name"] for s in sources] or None, socket_path=self.pretended.socket, **options)

    def test_15_defaults(self):
        client = NTPClient()
        self.assertEqual(client.servers, ["pool.ntp.org", "time.nist.gov", "time.google.com", "time.cloudflare.com"])
        self.assertEqual((client.timeout, client.max_retries), (10.0, 3))

    def test_16_custom(self):
        client = NTPClient(["custom.ntp.server"], timeout=5.0, max_retries=2)
        self.assertEqual((client.servers, client.timeout, client.max_retries), (["custom.ntp.server"], 5.0, 2))

    async def test_17_success(self):
        client = self.client(self.source("test.ntp.server", offset_ms=50.0, stratum=2))
        result = await client.sync_with_server("test.ntp.server")
        self.assertTrue(result.success)
        self.assertEqual((result.server, result.stratum), ("test.ntp.server", 2))
        self.assertAlmostEqual(result.offset, 0.05)

    async def test_18_a_failure_names_the_server(self):
        for where in (real.socket, "/nonexistent/socket"):
            result = await NTPClient(socket_path=where).sync_with_server("invalid.ntp.server")
            self.assertFalse(result.success)
            self.assertIn("invalid.ntp.server", result.error_message)

    async def test_19_one_of_two_fails(self):
        client = self.client(self.source("server1.ntp", offset_ms=10.0),
                             self.source("server2.ntp", role="unreachable", why="no reply in 10 s"))
        results = await client.sync_with_multiple_servers()
        self.assertEqual({name: r.success for name, r in results.items()}, {"server1.ntp": True, "server2.ntp": False})
        self.assertIn("no reply in 10 s", results["server2.ntp"].error_message)

    async def test_20_best_offset(self):
        client = self.client(*(self.source(f"server{i}", offset_ms=ms) for i, ms in enumerate((50.0, 48.0, 52.0))))
        await client.sync_with_multiple_servers()
        self.assertTrue(0.045 <= client.get_best_offset() <= 0.055)

    async def test_21_quality_of_three_of_four(self):
        sound = [self.source(f"s{i}", offset_ms=ms, delay_us=55_000.0) for i, ms in enumerate((10.0, 12.0, 11.0))]
        client = self.client(*sound, self.source("s4", role="unreachable", offset_us=None))
        await client.sync_with_multiple_servers()
        self.assertIn(client.get_sync_quality(), ("good", "excellent"))

    async def test_22_summary_of_one_of_two(self):
        client = self.client(self.source("s1", offset_ms=20.0), self.source("s2", role="falseticker"))
        await client.sync_with_multiple_servers()
        summary = client.get_sync_summary()
        self.assertEqual((summary["servers_configured"], summary["servers_successful"]), (2, 1))
        self.assertEqual(summary["best_offset_ms"], 20.0)
        zero = NTPClient(["s"])
        zero.heard([self.source("s", offset_ms=0.0)])
        self.assertEqual(zero.get_sync_summary()["best_offset_ms"], 0.0, "an offset of 0 is not unknown")
        now = datetime.datetime.now(datetime.timezone.utc)
        self.assertEqual(NTPSyncResult("s", 0.02, 0.05, 2, now, -20, 0.001, 0.002, True).to_dict()["offset_ms"], 20.0)


class Whole(WithDaemon):
    async def test_23_a_full_cycle_against_the_running_daemon(self):
        sync = self.sync(real.socket, sync_interval_minutes=0.01, drift_threshold_ms=15.0, ntp_servers=["pool.ntp.org"])
        updates, alerts, corrections = [], [], []
        sync.set_sync_callback(lambda status: updates.append(status.to_dict()))
        sync.set_drift_alert_callback(alerts.append)
        sync.set_correction_callback(corrections.append)
        await sync.start_sync_monitoring()
        await asyncio.sleep(2.0)
        await sync.force_sync_check()
        await sync.stop_sync_monitoring()
        self.assertGreater(len(updates), 2)
        status = sync.get_sync_status()
        self.assertGreater(status.sync_count, 0)
        self.assertIsNotNone(status.last_sync_time)
        self.assertIn(status.sync_quality, ("excellent", "good"))
        self.assertEqual(alerts, [])
        self.assertIn("of UTC", status.verdict)
        self.assertGreaterEqual(sync.get_sync_summary()["ntp_summary"]["servers_successful"], 2)


if __name__ == "__main__":
    unittest.main()

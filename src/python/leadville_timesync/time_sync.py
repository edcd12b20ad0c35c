"""A drop-in for `impact_bridge.time_sync`: the same names and calls, answered by the daemon.

The daemon keeps the clock; this tells of it. An alert comes once per episode, a correction is what the
clock was moved by (positive: forward), and nothing is ever invented: without an answer the quality is
"unknown" and a failure is counted.
"""
from __future__ import annotations

import asyncio
import inspect
import json
import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import Client, NotRunning, Refused, Stamp, TimesyncError, places, stamp, status
from .ntp_client import NTPClient

logger = logging.getLogger(__name__)

_LEVELS = (("excellent", 5.0), ("good", 10.0), ("fair", 25.0), ("poor", 50.0), ("critical", float("inf")))
_ORDER = [name for name, _ in _LEVELS] + ["unknown"]
# The status is read again at once after these; a `sync` of one server is no news by itself.
_NEWS = ("alert", "alert_cleared", "correction", "step", "foreign_step", "state")
# How often a daemon that is gone is looked for, s.
_RETRY_S = 2.0
# A dated instant serves get_corrected_time() for so long, s.
_FRESH_S = 1.0


def quality_of(worst_ms: float) -> str:
    """The grade of an error in ms; a boundary belongs to the worse one."""
    return next(name for name, below in _LEVELS if abs(worst_ms) < below or name == "critical")


@dataclass
class TimeSyncStatus:
    """How the clock is. `clock_drift_ms` is true minus ours; before the first measurement it is 0.0
    with the quality "unknown" and no `last_sync_time`."""

    last_sync_time: Optional[datetime] = None
    clock_drift_ms: float = 0.0
    sync_count: int = 0
    max_drift_ms: float = 0.0
    avg_drift_ms: float = 0.0
    sync_quality: str = "unknown"
    ntp_enabled: bool = False
    ntp_offset_ms: float = 0.0
    ntp_quality: str = "unknown"
    correction_applied_ms: float = 0.0
    error_bound_ms: Optional[float] = None
    failure_count: int = 0
    verdict: str = "nothing is known of the time yet"

    def to_dict(self) -> Dict[str, Any]:
        """For JSON; the names of the former system, and those that came after."""
        figures = ("clock_drift_ms", "max_drift_ms", "avg_drift_ms", "ntp_offset_ms", "correction_applied_ms")
        out: Dict[str, Any] = {"last_sync_time": self.last_sync_time.isoformat() if self.last_sync_time else None}
        out.update({name: round(getattr(self, name), 2) for name in figures})
        out.update({name: getattr(self, name) for name in (
            "sync_count", "sync_quality", "ntp_enabled", "ntp_quality", "error_bound_ms", "failure_count", "verdict")})
        return out


class TimeSynchronizer:
    """Watches the daemon. Servers, intervals and corrections are the daemon's own
    (/etc/leadville/timesync.toml); `drift_threshold_ms` and `sync_interval_minutes` say when this object
    alerts and how often it looks. `ntp={"enabled", "servers", "timeout_seconds", "max_retries"}` is taken too,
    as the configuration's `time_synchronization` has it."""

    def __init__(self, sync_interval_minutes: float = 5.0, drift_threshold_ms: float = 20.0, enabled: bool = True,
                 ntp_enabled: bool = True, ntp_servers: Optional[List[str]] = None, ntp_timeout: float = 10.0,
                 enable_correction: bool = True, ntp: Optional[Dict[str, Any]] = None,
                 socket_path: Optional[str] = None, **other: Any):
        ntp = ntp or {}
        self.sync_interval_minutes = float(sync_interval_minutes)
        self.drift_threshold_ms = float(drift_threshold_ms)
        self.enabled = enabled
        self.ntp_enabled = bool(ntp.get("enabled", ntp_enabled))
        self.enable_correction = enable_correction
        self.socket_path = socket_path
        self.ntp_client: Optional[NTPClient] = None
        if self.ntp_enabled:
            self.ntp_client = NTPClient(ntp.get("servers", ntp_servers), float(ntp.get("timeout_seconds", ntp_timeout)),
                                        int(ntp.get("max_retries", 3)), socket_path=socket_path)
        if other:
            logger.warning("time_synchronization: %s is not known and not used", ", ".join(sorted(other)))
        self.sync_status = TimeSyncStatus(ntp_enabled=self.ntp_enabled)
        self._history_count = 0
        self._alerting = False
        self._corrected_ms: Optional[float] = None
        self._dated: Optional[Tuple[int, Optional[int]]] = None
        self._sync_task: Optional["asyncio.Task[None]"] = None
        self._stop_requested = False
        self._on_sync_update: Optional[Callable[[TimeSyncStatus], Any]] = None
        self._on_drift_alert: Optional[Callable[[float], Any]] = None
        self._on_correction_applied: Optional[Callable[[float], Any]] = None

    def set_sync_callback(self, callback: Callable[[TimeSyncStatus], Any]) -> None:
        """Called after every look at the daemon; plain or async, as all three."""
        self._on_sync_update = callback

    def set_drift_alert_callback(self, callback: Callable[[float], Any]) -> None:
        """Called with the drift in ms, once when |drift| + bound reaches the threshold."""
        self._on_drift_alert = callback

    def set_correction_callback(self, callback: Callable[[float], Any]) -> None:
        """Called with the ms by which the clock was moved; positive is forward."""
        self._on_correction_applied = callback

    async def start_sync_monitoring(self) -> None:
        """Looks at once, then every `sync_interval_minutes`, and whenever the daemon has news."""
        if not self.enabled:
            logger.info("time synchronization is disabled")
            return
        await self.stop_sync_monitoring()
        self._stop_requested = False
        self._sync_task = asyncio.create_task(self._monitor())

    async def stop_sync_monitoring(self) -> None:
        """Ends what start_sync_monitoring began."""
        self._stop_requested = True
        task, self._sync_task = self._sync_task, None
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def force_sync_check(self) -> None:
        """Has the daemon ask its servers, waits for an answer (ntp_timeout at most), and looks."""
        if not self.enabled:
            logger.warning("time synchronization is disabled")
            return
        if self.ntp_enabled:
            await self._asked()
        await self._look()

    async def force_ntp_sync(self) -> bool:
        """As force_sync_check; whether the time is known by a server now."""
        if not self.ntp_enabled:
            logger.warning("NTP is disabled")
            return False
        failures = self.sync_status.failure_count
        await self.force_sync_check()
        return self.enabled and self.sync_status.failure_count == failures

    def get_sync_status(self) -> TimeSyncStatus:
        """As of the last look."""
        return self.sync_status

    def get_sync_summary(self) -> Dict[str, Any]:
        """For logs and JSON."""
        offset = self.sync_status.clock_drift_ms if self.enable_correction else 0.0
        summary: Dict[str, Any] = {
            "enabled": self.enabled, "sync_interval_minutes": self.sync_interval_minutes,
            "drift_threshold_ms": self.drift_threshold_ms, "status": self.sync_status.to_dict(),
            "drift_history_count": self._history_count, "system_time_offset_ms": round(offset, 2),
            "ntp_enabled": self.ntp_enabled}
        if self.ntp_client:
            summary["ntp_summary"] = self.ntp_client.get_sync_summary()
        return summary

    def get_corrected_time(self) -> datetime:
        """The best estimate of UTC now; the system clock's time while nothing better is known."""
        now = time.monotonic_ns()
        if self.enabled and self.enable_correction:
            if self._dated is None or now - self._dated[0] > _FRESH_S * 1e9:
                self._dated = (now, self._utc_ns(now))
            at, utc_ns = self._dated
            if utc_ns is not None:
                ns = utc_ns + time.monotonic_ns() - at
                return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=ns // 1_000)
        return datetime.now(timezone.utc)

    def reset_corrections(self) -> None:
        """The sum of corrections begins anew; the clock itself runs on as it is."""
        self.sync_status.correction_applied_ms = 0.0
        self._dated = None
        if self._on_correction_applied:
            told = self._on_correction_applied(0.0)
            if inspect.isawaitable(told):
                try:
                    asyncio.get_running_loop().create_task(_finished(told))
                except RuntimeError:
                    asyncio.run(_finished(told))

    def correct_drift(self, correction_ms: float) -> None:
        """Once moved a figure, never the clock. The daemon corrects by itself; nothing is changed."""
        logger.info("a correction of %.2f ms is not applied: the daemon corrects the clock itself", correction_ms)

    # ── what looks at the daemon ────────────────────────────────────────────────────────────

    def _assess_sync_quality(self, abs_drift_ms: float) -> str:
        return quality_of(abs_drift_ms)

    def _assess_overall_sync_quality(self, abs_drift_ms: float, ntp_quality: str) -> str:
        own = quality_of(abs_drift_ms)
        return max(own, ntp_quality, key=_ORDER.index) if self.ntp_enabled else own

    def _utc_ns(self, monotonic_ns: int) -> Optional[int]:
        try:
            with Client(self.socket_path, timeout=0.5) as client:
                utc_ns: Optional[int] = client.request("stamp", monotonic_ns=monotonic_ns)["utc_ns"]
                return utc_ns
        except TimesyncError:
            return None

    async def _asked(self) -> None:
        """Waits until the daemon has measured anew, or for as long as a server may take."""
        patience = self.ntp_client.timeout if self.ntp_client else 10.0
        try:
            reader, writer = await self._subscribed()
        except (OSError, ValueError, TimesyncError):
            return
        try:
            await _in_thread(self._sync_now)
            await asyncio.wait_for(_first(reader, "sync"), min(patience, 9.0))
        except (asyncio.TimeoutError, OSError, ValueError, EOFError):
            pass
        except TimesyncError as error:
            # Whoever may only read sees what the daemon measured by itself.
            logger.debug("not asked anew: %s", error)
        finally:
            writer.close()

    def _sync_now(self) -> None:
        with Client(self.socket_path) as client:
            client.request("sync-now")

    async def _subscribed(self) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
        failure: Exception = NotRunning("no time daemon is running")
        for place in places(self.socket_path):
            try:
                reader, writer = await asyncio.open_unix_connection(place, limit=1 << 21)
            except OSError as error:
                failure = error
                continue
            writer.write(b'{"do":"subscribe"}\n')
            reply = await asyncio.wait_for(reader.readline(), 5.0)
            if json.loads(reply or b"{}").get("reply") == "subscribed":
                return reader, writer
            writer.close()
            failure = Refused("the daemon takes no more subscribers")
        raise failure

    async def _monitor(self) -> None:
        while not self._stop_requested:
            try:
                reader, writer = await self._subscribed()
            except (OSError, ValueError, TimesyncError, asyncio.TimeoutError):
                await self._look()
                await asyncio.sleep(min(_RETRY_S, self.sync_interval_minutes * 60))
                continue
            try:
                await self._while_here(reader)
            except (OSError, ValueError, EOFError):
                pass
            finally:
                writer.close()

    async def _while_here(self, reader: asyncio.StreamReader) -> None:
        due = 0.0
        while not self._stop_requested:
            wait = due - time.monotonic()
            if wait <= 0:
                await self._look()
                due = time.monotonic() + self.sync_interval_minutes * 60
                continue
            try:
                line = await asyncio.wait_for(reader.readline(), wait)
            except asyncio.TimeoutError:
                continue
            if not line:
                raise EOFError
            if json.loads(line).get("event") in _NEWS:
                await self._look()

    async def _look(self) -> None:
        seen: Optional[Dict[str, Any]] = None
        if self.ntp_enabled:
            try:
                seen = await _in_thread(status, self.socket_path)
            except TimesyncError as error:
                logger.warning("%s", error)
                self.sync_status.verdict = str(error)
        await self._take(seen)

    async def _take(self, seen: Optional[Dict[str, Any]]) -> None:
        """Takes in a status of the daemon, None if there is none, and tells of it."""
        mine = self.sync_status
        offset_us, bound_us = (seen.get("offset_us"), seen.get("error_bound_us")) if seen else (None, None)
        moved = None
        if seen is None or offset_us is None or bound_us is None:
            mine.failure_count += 1
            mine.sync_quality = mine.ntp_quality = "unknown"
            mine.error_bound_ms = None
        else:
            worst_ms = (abs(offset_us) + bound_us) * 1e-3
            # Carried on by itself it is still known, but it was not measured.
            if seen["state"] == "synchronised":
                mine.sync_count += 1
            else:
                mine.failure_count += 1
            mine.clock_drift_ms = mine.ntp_offset_ms = offset_us * 1e-3
            mine.error_bound_ms = bound_us * 1e-3
            mine.sync_quality, mine.ntp_quality = quality_of(worst_ms), seen["ntp_quality"]
            moved = self._moved(seen)
        if seen is not None:
            if seen["last_sync_time"]:
                mine.last_sync_time = datetime.fromisoformat(seen["last_sync_time"].replace("Z", "+00:00"))
            mine.max_drift_ms, mine.avg_drift_ms = seen["max_drift_ms"] or 0.0, seen["avg_drift_ms"] or 0.0
            mine.verdict = seen["verdict"]
            self._history_count = seen["drift_history_count"]
            if self.ntp_client:
                self.ntp_client.heard(seen["servers"])
        self._dated = None
        if moved is not None:
            await self._tell(self._on_correction_applied, moved)
        if mine.error_bound_ms is not None:
            worst_ms = abs(mine.clock_drift_ms) + mine.error_bound_ms
            if not self._alerting and worst_ms >= self.drift_threshold_ms:
                self._alerting = True
                logger.warning("the clock may be %.1f ms wrong (threshold %.1f ms)", worst_ms, self.drift_threshold_ms)
                await self._tell(self._on_drift_alert, mine.clock_drift_ms)
            elif worst_ms < 0.75 * self.drift_threshold_ms:
                self._alerting = False
        await self._tell(self._on_sync_update, mine)

    def _moved(self, seen: Dict[str, Any]) -> Optional[float]:
        """By how much the clock was moved since the last look, ms; None if it was not."""
        total: float = seen["correction_applied_ms"]
        before, self._corrected_ms = self._corrected_ms, total
        # Before our first look it was not our concern; a smaller sum after a restart begins anew.
        if before is None or not self.enable_correction or abs(total - before) < 1e-6:
            return None
        self.sync_status.correction_applied_ms += total - before
        return total - before

    async def _tell(self, callback: Optional[Callable[..., Any]], value: Any) -> None:
        if callback is None:
            return
        try:
            told = callback(value)
            if inspect.isawaitable(told):
                await told
        except Exception:  # noqa: BLE001 (what a callback does wrong must not end the watching)
            logger.exception("a callback failed")


class TimeSyncIntegration:
    """Dates the timer's events as they arrive."""

    def __init__(self, time_synchronizer: TimeSynchronizer):
        self.time_synchronizer = time_synchronizer

    async def handle_amg_timer_event(self, parsed_data: Dict[str, Any]) -> Optional[Stamp]:
        """The UTC of now, with its bound, or None while it is not known. The daemon's own events of
        kind "timer" are better: they allow for the way of the frames."""
        try:
            dated: Stamp = await _in_thread(stamp, time.monotonic_ns(), self.time_synchronizer.socket_path)
            return dated
        except TimesyncError as error:
            logger.debug("the event is not dated: %s", error)
            return None

    async def handle_sync_update(self, sync_status: TimeSyncStatus) -> None:
        """Says in the log when the time is bad."""
        if sync_status.sync_quality in ("poor", "critical"):
            logger.warning("the time is %s: %s", sync_status.sync_quality, sync_status.verdict)

    async def handle_drift_alert(self, drift_ms: float) -> None:
        """Says so in the log."""
        logger.warning("time drift alert: %.2f ms", drift_ms)


async def _finished(told: Any) -> None:
    await told


async def _in_thread(call: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


async def _first(reader: asyncio.StreamReader, kind: str) -> None:
    while True:
        line = await reader.readline()
        if not line:
            raise EOFError
        if json.loads(line).get("event") == kind:
            return

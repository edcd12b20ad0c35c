"""What `impact_bridge.ntp_client` offered, answered by the daemon: it asks the servers, nobody else."""
from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List, Optional

from . import TimesyncError, sources

DEFAULT_SERVERS = ("pool.ntp.org", "time.nist.gov", "time.google.com", "time.cloudflare.com")
# A reply older than this says nothing about now.
_STALE_S = 1_800.0


@dataclass
class NTPSyncResult:
    """One server's last reply. Offset (true minus ours) and delays in seconds."""

    server: str
    offset: float
    delay: float
    stratum: int
    sync_time: datetime
    precision: float
    root_delay: float
    root_dispersion: float
    success: bool
    error_message: Optional[str] = None

    def to_dict(self) -> Dict[str, Any]:
        """For JSON, in milliseconds."""
        return {"server": self.server, "offset_ms": round(self.offset * 1e3, 2), "delay_ms": round(self.delay * 1e3, 2),
                "stratum": self.stratum, "sync_time": self.sync_time.isoformat(), "precision": self.precision,
                "root_delay": self.root_delay, "root_dispersion": self.root_dispersion, "success": self.success,
                "error_message": self.error_message}

    @classmethod
    def failed(cls, server: str, why: str) -> "NTPSyncResult":
        """No reply; the sentence names the server."""
        return cls(server, 0.0, 0.0, 0, datetime.now(timezone.utc), 0.0, 0.0, 0.0, False, f"{server}: {why}")

    @classmethod
    def of(cls, source: Dict[str, Any]) -> "NTPSyncResult":
        """From an entry of the daemon's `sources`."""
        name, age = source["name"], source.get("last_reply_s")
        if source["role"] not in ("selected", "unused") or source.get("offset_us") is None or age is None:
            return cls.failed(name, source.get("why") or f"no usable reply ({source['role']})")
        if age > _STALE_S:
            return cls.failed(name, f"silent for {age / 60:.0f} minutes")
        delay = (source.get("delay_us") or 0.0) * 1e-6
        # The protocol gives the guarantee as one figure: half the round trip and the root distance.
        root = max(0.0, (source.get("max_error_us") or 0.0) * 1e-6 - delay / 2)
        heard = datetime.now(timezone.utc) - timedelta(seconds=age)
        return cls(name, source["offset_us"] * 1e-6, delay, source.get("stratum") or 0, heard, 0.0, 0.0, root, True)


class NTPClient:
    """Reports what the daemon heard from its servers."""

    def __init__(self, servers: Optional[List[str]] = None, timeout: float = 10.0, max_retries: int = 3,
                 retry_delay: float = 1.0, socket_path: Optional[str] = None):
        self.servers = list(servers) if servers else list(DEFAULT_SERVERS)
        self.timeout, self.max_retries, self.retry_delay = timeout, max_retries, retry_delay
        self.socket_path = socket_path
        self._last_sync_results: List[NTPSyncResult] = []

    async def sync_with_server(self, server: str) -> NTPSyncResult:
        """The daemon's last exchange with `server`; a failure is a result that says why."""
        return (await self._results([server]))[server]

    async def sync_with_multiple_servers(self) -> Dict[str, NTPSyncResult]:
        """The same for all servers of this client."""
        results = await self._results(self.servers)
        self._last_sync_results = [r for r in results.values() if r.success]
        return results

    async def _results(self, wanted: List[str]) -> Dict[str, NTPSyncResult]:
        try:
            heard = await asyncio.get_running_loop().run_in_executor(None, sources, self.socket_path)
        except TimesyncError as error:
            return {name: NTPSyncResult.failed(name, str(error)) for name in wanted}
        return {name: self._one(name, heard) for name in wanted}

    def _one(self, name: str, heard: List[Dict[str, Any]]) -> NTPSyncResult:
        # A pool's name stands for several servers: the first sound one answers for it.
        found = [NTPSyncResult.of(s) for s in heard if s["name"] == name]
        if not found:
            return NTPSyncResult.failed(name, "the daemon does not ask it; name it in /etc/leadville/timesync.toml")
        return next((r for r in found if r.success), found[0])

    def heard(self, servers: List[Dict[str, Any]]) -> None:
        """Takes the daemon's list of servers as the last results, and as the servers in use."""
        self.servers = list(dict.fromkeys(s["name"] for s in servers)) or self.servers
        self._last_sync_results = [r for r in map(NTPSyncResult.of, servers) if r.success]

    def get_best_offset(self) -> Optional[float]:
        """Median offset of the sound servers, in seconds; None without any."""
        return statistics.median(r.offset for r in self._last_sync_results) if self._last_sync_results else None

    def get_sync_quality(self) -> str:
        """How many answer, how well they agree, how far away they are."""
        results = self._last_sync_results
        if not results:
            return "unknown"
        share = len(results) / len(self.servers)
        spread, delay = self._spread(), statistics.mean(r.delay for r in results)
        for word, least, widest, farthest in (("excellent", 0.75, 0.01, 0.1), ("good", 0.5, 0.05, 0.5),
                                              ("fair", 0.25, 0.1, float("inf"))):
            if share >= least and spread < widest and delay < farthest:
                return word
        return "poor"

    def _spread(self) -> float:
        offsets = [r.offset for r in self._last_sync_results]
        return statistics.stdev(offsets) if len(offsets) > 1 else 0.0

    def get_sync_summary(self) -> Dict[str, Any]:
        """For logs. An offset of 0 is 0.0, not None."""
        results, best = self._last_sync_results, self.get_best_offset()
        return {"servers_configured": len(self.servers), "servers_successful": len(results),
                "best_offset_ms": None if best is None else round(best * 1e3, 2), "sync_quality": self.get_sync_quality(),
                "last_sync_time": max(r.sync_time for r in results).isoformat() if results else None,
                "avg_delay_ms": round(statistics.mean(r.delay for r in results) * 1e3, 2) if results else None,
                "offset_std_ms": round(self._spread() * 1e3, 2) if results else None}

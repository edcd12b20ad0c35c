"""As time_sync beside it."""
from leadville_timesync.ntp_client import NTPClient, NTPSyncResult

__all__ = ["NTPClient", "NTPSyncResult"]

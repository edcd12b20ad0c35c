"""`from impact_bridge.time_sync import TimeSynchronizer`, where the former system is not installed.

This folder has no __init__.py on purpose: the former system's own package, wherever it is, goes before
it. leadville_timesync.drop_in is for programs that have both.
"""
from leadville_timesync.time_sync import TimeSyncIntegration, TimeSynchronizer, TimeSyncStatus

__all__ = ["TimeSyncIntegration", "TimeSyncStatus", "TimeSynchronizer"]

"""Read by every Python that is started with PYTHONPATH=/usr/share/leadville-timesync/drop-in."""
import leadville_timesync.drop_in  # noqa: F401

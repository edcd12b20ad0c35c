"""The time of the range, from leadville-timesync: needs nothing but Python 3.9.

    import leadville_timesync as lt

    lt.status()["verdict"]               # in words; every figure of the status beside it
    lt.corrected_time()                  # datetime, UTC, better than the system clock
    lt.stamp(time.monotonic_ns()).utc    # when something happened, with bound_us
    for event in lt.events():            # alerts, steps, locks, shots, as they happen
        ...

Offsets are true minus ours: positive means that our clock is behind. The unit of a figure stands in
its name, and None is unknown. Whoever asks must be in the group leadville.
"""
from __future__ import annotations

import json
import os
import socket
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

__all__ = ["Client", "NotRunning", "Refused", "Stamp", "TimesyncError", "corrected_time", "events", "history",
           "lock", "places", "sources", "stamp", "status", "sync_now", "unlock"]

SYSTEM_SOCKET = "/run/leadville/timesync.sock"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# The daemon's longest reply, with room.
_LONGEST = 2 << 20


class TimesyncError(Exception):
    """What stood in the way, as a sentence; `hint` says what to do, or is None."""

    def __init__(self, sentence: str, hint: Optional[str] = None):
        super().__init__(sentence)
        self.hint = hint


class NotRunning(TimesyncError):
    """No daemon answers, or we may not talk to it."""


class Refused(TimesyncError):
    """The daemon answered that it will not, or cannot yet."""


class Stamp(NamedTuple):
    """An instant in UTC."""

    utc: datetime
    """To the microsecond."""
    utc_ns: int
    """Nanoseconds since 1970."""
    bound_us: float
    """The true time is within this of it, in 95 of 100 cases."""


def utc_of(utc_ns: int) -> datetime:
    """Nanoseconds since 1970 as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=utc_ns // 1_000)


def places(given: Optional[str] = None) -> List[str]:
    """Where the daemon is looked for: `given` alone, else $LEADVILLE_SOCKET alone, else the
    system's daemon and the user's own."""
    only = given or os.environ.get("LEADVILLE_SOCKET")
    if only:
        return [str(only)]
    own = os.environ.get("XDG_RUNTIME_DIR")
    return [SYSTEM_SOCKET] + ([os.path.join(own, "leadville/timesync.sock")] if own else [])


class Client:
    """A connection to the daemon; `with` closes it. Not for several threads at once."""

    def __init__(self, socket_path: Optional[str] = None, timeout: Optional[float] = 5.0):
        """Raises NotRunning. `timeout`: seconds that an answer may take; None is for ever."""
        self._socket = _connect(socket_path, timeout)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; `events` of another thread ends with it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._lines.close()
        self._socket.close()

    def request(self, do: str, **fields: Any) -> Dict[str, Any]:
        """One request, one answer: request("lock", name="match", for_s=600). Raises Refused."""
        line = json.dumps({"do": do, **{k: v for k, v in fields.items() if v is not None}})
        try:
            self._socket.sendall(line.encode() + b"\n")
            reply = self._read()
        except socket.timeout:
            raise NotRunning("the daemon does not answer") from None
        except OSError as error:
            raise NotRunning(f"the daemon has gone: {error}") from error
        if reply is None:
            raise NotRunning("the daemon has closed the connection")
        if reply.get("reply") == "error":
            raise Refused(str(reply.get("error")), reply.get("hint"))
        return reply

    def events(self) -> Iterator[Dict[str, Any]]:
        """What happens from now on, without end. After this the connection takes no request.

        Subscribed when this returns. Raises NotRunning when the daemon stops."""
        self.request("subscribe")
        self._socket.settimeout(None)
        return self._follow()

    def _follow(self) -> Iterator[Dict[str, Any]]:
        while True:
            try:
                event = self._read()
            except (OSError, ValueError) as error:
                raise NotRunning(f"the daemon has gone: {error}") from error
            if event is None:
                raise NotRunning("the daemon has stopped")
            yield event

    def _read(self) -> Optional[Dict[str, Any]]:
        line = self._lines.readline(_LONGEST)
        return json.loads(line) if line else None


def _connect(given: Optional[str], timeout: Optional[float]) -> socket.socket:
    denied = None
    looked = places(given)
    for place in looked:
        candidate = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        candidate.settimeout(timeout)
        try:
            candidate.connect(place)
            return candidate
        except PermissionError:
            denied = place
        except OSError:
            pass
        candidate.close()
    if denied:
        raise NotRunning(f"we may not open {denied}",
                         "join the group with `sudo adduser $USER leadville` and log in again; for a service: "
                         "SupplementaryGroups=leadville")
    raise NotRunning(f"no time daemon is running (looked at {' and '.join(looked)})",
                     "sudo systemctl start leadville-timesync")


def _ask(socket_path: Optional[str], do: str, **fields: Any) -> Dict[str, Any]:
    with Client(socket_path) as client:
        return client.request(do, **fields)


def status(socket_path: Optional[str] = None) -> Dict[str, Any]:
    """Everything about the clock, as `leadville-timesync status --json` shows it."""
    return _ask(socket_path, "status")


def sources(socket_path: Optional[str] = None) -> List[Dict[str, Any]]:
    """The servers, and what each is good for."""
    servers: List[Dict[str, Any]] = _ask(socket_path, "sources")["servers"]
    return servers


def history(socket_path: Optional[str] = None) -> List[Dict[str, Any]]:
    """The last 100 measurements, oldest first."""
    measured: List[Dict[str, Any]] = _ask(socket_path, "history")["history"]
    return measured


def stamp(monotonic_ns: Optional[int] = None, socket_path: Optional[str] = None) -> Stamp:
    """The UTC of an instant of time.monotonic_ns(), of now if none is given; up to two days away.

    Raises Refused before the first synchronisation."""
    at = time.monotonic_ns() if monotonic_ns is None else monotonic_ns
    reply = _ask(socket_path, "stamp", monotonic_ns=at)
    return Stamp(utc_of(reply["utc_ns"]), reply["utc_ns"], reply["bound_us"])


def corrected_time(socket_path: Optional[str] = None) -> datetime:
    """The best estimate of UTC now. Raises Refused before the first synchronisation."""
    at = time.monotonic_ns()
    dated = stamp(at, socket_path)
    return utc_of(dated.utc_ns + time.monotonic_ns() - at)


def events(socket_path: Optional[str] = None) -> Iterator[Dict[str, Any]]:
    """What happens from now on: dicts with `event` (sync, alert, alert_cleared, correction, step,
    lock, unlock, state, timer, …) and `utc`. Subscribed when this returns; the loop over it ends with
    NotRunning when the daemon stops."""
    client = Client(socket_path)
    try:
        followed = client.events()
    except BaseException:
        client.close()
        raise
    return _closing(client, followed)


def _closing(client: Client, followed: Iterator[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
    with client:
        yield from followed


def sync_now(socket_path: Optional[str] = None) -> None:
    """All servers are asked as soon as their spacing allows."""
    _ask(socket_path, "sync-now")


def lock(name: str = "match", for_s: Optional[float] = None, socket_path: Optional[str] = None) -> None:
    """The clock is held still: no step, no slew, until `unlock` or after `for_s` seconds."""
    _ask(socket_path, "lock", name=name, for_s=for_s)


def unlock(name: str = "match", socket_path: Optional[str] = None) -> None:
    """The clock may be corrected again."""
    _ask(socket_path, "unlock", name=name)

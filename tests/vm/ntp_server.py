#!/usr/bin/env python3
"""NTP servers to test against: on 127.0.0.1, each with its own offset and frequency error, changed while they run.

  ntp_server.py PORT[,offset=SECONDS][,ppm=F][,stratum=N][,refid=TEXT]…     serves until killed; a line "PORT on|off|offset=S|ppm=F"
                                                                          on stdin changes one of them

True time here is the host's clock at the start, carried on by its monotonic clock: a step of the host's clock while the
servers run reaches nobody. In a guest with user networking they are seen at 10.0.2.2:PORT.
"""
import selectors
import socket
import struct
import sys
import threading
import time

SO_TIMESTAMPNS = 35
UNIX_TO_NTP = 2208988800
BASE_UTC, BASE_MONOTONIC = time.time_ns(), time.monotonic_ns()


def true_ns():
    return BASE_UTC + time.monotonic_ns() - BASE_MONOTONIC


def ntp_time(ns):
    seconds, rest = divmod(ns, 10**9)
    return struct.pack("!II", (seconds + UNIX_TO_NTP) & 0xFFFFFFFF, (rest << 32) // 10**9)


class NtpServer:
    """One server. Assign to `offset` (s), `ppm` (its clock's rate error) and `on` at any time."""

    def __init__(self, port=0, offset=0.0, ppm=0.0, stratum=1, refid="GPS", leap=0, root_delay=0.0, root_dispersion=0.0005):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.bind(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.stratum, self.refid, self.leap = stratum, refid.encode().ljust(4, b"\0")[:4], leap
        self.root_delay, self.root_dispersion = root_delay, root_dispersion
        self.on, self.requests = True, 0
        self._phase, self._since, self._rate = offset * 1e9, true_ns(), ppm

    def error_ns(self, at):
        """How far ahead of the truth it is at the true instant `at`."""
        return round(self._phase + (at - self._since) * self._rate * 1e-6)

    @property
    def offset(self):
        return self.error_ns(true_ns()) / 1e9

    @offset.setter
    def offset(self, seconds):
        self._phase, self._since = seconds * 1e9, true_ns()

    @property
    def ppm(self):
        return self._rate

    @ppm.setter
    def ppm(self, rate):
        now = true_ns()
        self._phase, self._since, self._rate = self.error_ns(now), now, rate

    def time_ns(self, at=None):
        at = true_ns() if at is None else at
        return at + self.error_ns(at)

    def answer(self):
        data, control, _, client = self.socket.recvmsg(1024, 64)
        waited = 0
        for level, kind, stamp in control:              # the kernel's receive stamp: how long this process let it wait
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, ns = struct.unpack("ll", stamp[:16])
                waited = min(max(time.time_ns() - seconds * 10**9 - ns, 0), 10**9)
        received = true_ns() - waited
        if len(data) < 48 or data[0] & 7 != 3:
            return
        self.requests += 1
        if not self.on:
            return
        version = data[0] >> 3 & 7
        head = struct.pack("!BBbbII", self.leap << 6 | version << 3 | 4, self.stratum, data[2] if data[2] < 128 else 6, -23,
                           round(self.root_delay * 65536), round(self.root_dispersion * 65536))
        set_at = self.time_ns(received) // 10**9 * 10**9 - int(self.port) * 1000     # each its own reference time
        reply = head + self.refid + ntp_time(set_at) + data[40:48] + ntp_time(self.time_ns(received))
        self.socket.sendto(reply + ntp_time(self.time_ns()), client)


class Servers:
    """Some servers and the thread that answers for them."""

    def __init__(self, *servers):
        self.servers = list(servers)
        self._selector = selectors.DefaultSelector()
        for server in servers:
            self._selector.register(server.socket, selectors.EVENT_READ, server)
        self._stop = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while not self._stop:
            for key, _ in self._selector.select(0.5):
                try:
                    key.data.answer()
                except BlockingIOError:
                    pass
                except OSError as error:
                    print(f"ntp_server: {error}", file=sys.stderr)

    def set(self, **changes):
        for server in self.servers:
            for name, value in changes.items():
                setattr(server, name, value)

    def stop(self):
        self._stop = True
        self._thread.join()
        for server in self.servers:
            server.socket.close()


def main():
    servers = {}
    for spec in sys.argv[1:]:
        port, *options = spec.split(",")
        options = dict(option.split("=") for option in options)
        numbers = {k: float(v) for k, v in options.items() if k in ("offset", "ppm", "root_delay", "root_dispersion")}
        if "stratum" in options:
            numbers["stratum"] = int(options["stratum"])
        server = NtpServer(int(port), refid=options.get("refid", "GPS"), **numbers)
        servers[server.port] = server
    if not servers:
        sys.exit(__doc__)
    Servers(*servers.values())
    print("serving on", *servers, flush=True)
    for line in sys.stdin:
        try:
            port, change = line.split()
            server = servers[int(port)]
            if change in ("on", "off"):
                server.on = change == "on"
            else:
                name, value = change.split("=")
                setattr(server, {"offset": "offset", "ppm": "ppm"}[name], float(value))
        except (ValueError, KeyError):
            print("say: PORT on|off|offset=S|ppm=F", file=sys.stderr)
    threading.Event().wait()


if __name__ == "__main__":
    main()

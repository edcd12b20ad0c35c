#!/usr/bin/python3
"""What the tests ask a guest about its clock, and do to it. Each command prints one JSON object.

  probe.py offset PORT [N]   true − ours from the quickest of N exchanges with the host's server, ns (positive: we are behind)
  probe.py kernel            clock_adjtime read back: frequency (tick included), status, what is left of slews
  probe.py shift SECONDS     step the clock by so much (ADJ_SETOFFSET)
  probe.py nominal           no frequency, no slew, no loop: a kernel nobody has steered, and unsynchronised
  probe.py watch FILE PORT   until killed, a line each: every jump of (realtime − raw) above 1 ms; that difference once a
                             second; exchanges with the host's server, two a second
"""
import ctypes
import json
import os
import select
import socket
import struct
import sys
import time

REALTIME, RAW = time.CLOCK_REALTIME, time.CLOCK_MONOTONIC_RAW
libc = ctypes.CDLL(None, use_errno=True)
OFFSET, FREQUENCY, STATUS, TICK, SETOFFSET, NANO = 0x1, 0x2, 0x10, 0x4000, 0x100, 0x2000
SINGLESHOT, SS_READ, PLL, UNSYNC = 0x8001, 0xA001, 0x1, 0x40


class Timex(ctypes.Structure):
    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
                ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("constant", ctypes.c_long), ("precision", ctypes.c_long),
                ("tolerance", ctypes.c_long), ("sec", ctypes.c_long), ("nsec", ctypes.c_long), ("tick", ctypes.c_long),
                ("ppsfreq", ctypes.c_long), ("jitter", ctypes.c_long), ("shift", ctypes.c_int), ("stabil", ctypes.c_long),
                ("jitcnt", ctypes.c_long), ("calcnt", ctypes.c_long), ("errcnt", ctypes.c_long), ("stbcnt", ctypes.c_long),
                ("tai", ctypes.c_int), ("pad", ctypes.c_int * 11)]


def adjtime(**fields):
    timex = Timex(**fields)
    if libc.clock_adjtime(REALTIME, ctypes.byref(timex)) < 0:
        raise OSError(ctypes.get_errno(), "clock_adjtime: " + os.strerror(ctypes.get_errno()))
    return timex


def realtime_minus_raw():
    """From the tightest of five raw-realtime-raw readings: (ns, raw of the reading)."""
    best = None
    for _ in range(5):
        a, utc, b = time.clock_gettime_ns(RAW), time.clock_gettime_ns(REALTIME), time.clock_gettime_ns(RAW)
        if best is None or b - a < best[0]:
            best = (b - a, utc - (a + b) // 2, (a + b) // 2)
    return best[1], best[2]


def ntp_time(field):
    seconds, fraction = struct.unpack("!II", field)
    return (seconds - 2208988800) * 10**9 + (fraction * 10**9 >> 32)


def offset(port, n=12):
    quickest = None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.connect(("10.0.2.2", port))
        for _ in range(n):
            nonce = os.urandom(8)
            sent = time.clock_gettime_ns(REALTIME)
            s.send(b"\x23" + bytes(39) + nonce)
            try:
                reply = s.recv(128)
                while reply[24:32] != nonce:
                    reply = s.recv(128)
            except TimeoutError:
                continue
            received = time.clock_gettime_ns(REALTIME)
            t2, t3 = ntp_time(reply[32:40]), ntp_time(reply[40:48])
            delay = received - sent - (t3 - t2)
            if quickest is None or delay < quickest["delay_ns"]:
                quickest = {"offset_ns": (t2 - sent + t3 - received) // 2, "delay_ns": delay, "at_ns": received}
                quickest["truth_minus_raw_ns"] = quickest["offset_ns"] + realtime_minus_raw()[0]
            time.sleep(0.02)
    return quickest or {"offset_ns": None, "delay_ns": None}


def kernel():
    state = adjtime()
    left = adjtime(modes=SS_READ)
    diff, raw = realtime_minus_raw()
    return {"frequency_ppm": state.freq / 65536 + (state.tick - 10000) * 100, "status": state.status, "tick": state.tick,
            "loop_offset_ns": state.offset, "singleshot_us": left.offset, "maxerror_us": state.maxerror,
            "esterror_us": state.esterror, "realtime_minus_raw_ns": diff, "raw_ns": raw}


def shift(seconds):
    before, _ = realtime_minus_raw()
    ns = round(seconds * 1e9)
    adjtime(modes=SETOFFSET | NANO, sec=ns // 10**9, nsec=ns % 10**9)
    return {"shifted_ns": realtime_minus_raw()[0] - before}


def nominal():
    adjtime(modes=STATUS | OFFSET, status=PLL, offset=0)
    adjtime(modes=SINGLESHOT, offset=0)
    adjtime(modes=STATUS | FREQUENCY | TICK, status=UNSYNC, freq=0, tick=10000)
    return kernel()


def watch(path, port):
    with open(path, "w", buffering=1) as log, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        def say(**what):
            log.write(json.dumps(what) + "\n")

        s.setblocking(False)
        last, raw = realtime_minus_raw()
        say(at="start", raw_ns=raw, diff_ns=last)
        told = asked = raw
        nonce = b""
        while True:
            ready, _, _ = select.select([s], [], [], 0.05)
            received = time.clock_gettime_ns(RAW)
            if ready:
                try:
                    reply = s.recv(128)
                except OSError:             # the network is gone, or nobody listens
                    reply = b""
                if len(reply) >= 48 and reply[24:32] == nonce:
                    t2, t3 = ntp_time(reply[32:40]), ntp_time(reply[40:48])
                    say(at="exchange", raw_ns=received, truth_minus_raw_ns=(t2 - asked + t3 - received) // 2,
                        delay_ns=received - asked - (t3 - t2))
            diff, raw = realtime_minus_raw()
            if abs(diff - last) > 1_000_000:
                say(at="step", raw_ns=raw, step_ns=diff - last)
            last = diff
            if raw - told >= 10**9:
                told = raw
                say(at="tick", raw_ns=raw, diff_ns=diff)
            if raw - asked >= 5 * 10**8:
                nonce = os.urandom(8)
                try:
                    s.connect(("10.0.2.2", port))
                    asked = time.clock_gettime_ns(RAW)
                    s.send(b"\x23" + bytes(39) + nonce)
                except OSError:
                    asked = raw


if __name__ == "__main__":
    name, *args = sys.argv[1:]
    if name == "watch":
        watch(args[0], int(args[1]))
    convert = {"shift": float}.get(name, int)
    print(json.dumps({"offset": offset, "kernel": kernel, "shift": shift, "nominal": nominal}[name](*map(convert, args))))

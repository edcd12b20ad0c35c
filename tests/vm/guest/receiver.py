#!/usr/bin/python3
"""A GPS receiver on a PL2303 serial adapter, plugged into this machine by USB/IP: NMEA each second, a pulse on DCD.

The kernel's own pl2303 driver, PPS line discipline and whatever opens /dev/ttyUSB0 see a real device. Time is what this
machine's clock said when it started, carried on CLOCK_MONOTONIC_RAW, whatever is done to the clock afterwards.

  receiver.py [--late S] [--no-pulse] [--off S] [--utc-minus-raw NS] [--ctl FIFO]

Control, lines on the FIFO:  off S   the time it tells is wrong by that from now on
                             pulse on|off     talk on|off     late S
Log, a line an event: READY raw_ns utc_minus_raw_ns; PULSE utc raw_ns raw_ns, the raw clock before and after the kernel was told; SENT utc raw_ns.
"""
import argparse
import os
import socket
import struct
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--late", type=float, default=0.2, help="the sentences begin so long after the second, s")
parser.add_argument("--off", type=float, default=0.0)
parser.add_argument("--no-pulse", action="store_true")
parser.add_argument("--utc-minus-raw", type=int, help="the time as an earlier one knew it, ns")
parser.add_argument("--ctl")
A = parser.parse_args()
ATTACH = "/sys/devices/platform/vhci_hcd.0/attach"
SUBMIT, UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
STALL, RESET = -32, -104
DEVICE = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0110, 0, 0, 0, 64, 0x067B, 0x2303, 0x0300, 1, 2, 0, 1)
ENDPOINTS = b"".join(struct.pack("<BBBBHB", 7, 5, address, kind, size, interval)
                     for address, kind, size, interval in ((0x81, 3, 10, 1), (0x02, 2, 64, 0), (0x83, 2, 64, 0)))
CONFIG = struct.pack("<BBHBBBBB", 9, 2, 18 + len(ENDPOINTS), 1, 1, 0, 0x80, 50) + struct.pack("<BBBBBBBBB", 9, 4, 0, 0, 3, 0xFF, 0, 0, 0) + ENDPOINTS
STRINGS = {0: b"\x09\x04", 1: "Prolific".encode("utf-16-le"), 2: "USB-Serial Controller".encode("utf-16-le")}


def raw():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def log(*words):
    print(*words, flush=True)


class Adapter:
    """The device's side of USB/IP: requests of the kernel are answered, or kept until there is something to tell."""

    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket, self.lock = ours, threading.Lock()
        self.waiting = {1: [], 3: []}       # interrupt and bulk in: (seqnum, length)
        self.line = (9600, 0, 0, 8)
        self.state, self.told, self.unsaid = 0, 0, b""
        with open(ATTACH, "w") as f:
            f.write(f"0 {theirs.fileno()} 65538 2")         # port, socket, device, full speed
        theirs.close()

    def read(self, n):
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def run(self):
        while True:
            header = self.read(48)
            command, seqnum, _, direction, endpoint = struct.unpack(">IIIII", header[:20])
            length, = struct.unpack(">i", header[24:28])
            with self.lock:
                if command == UNLINK:
                    victim, = struct.unpack(">I", header[20:24])
                    for queue in self.waiting.values():
                        queue[:] = [w for w in queue if w[0] != victim]
                    self.socket.sendall(struct.pack(">IIIIIi", RET_UNLINK, seqnum, 0, 0, 0, RESET) + bytes(24))
                elif endpoint == 0:
                    out = self.read(length) if not direction else b""
                    self.control(seqnum, header[40:48], length, out)
                elif not direction:
                    self.answer(seqnum, 0, len(self.read(length)), b"")
                else:
                    self.waiting[endpoint].append((seqnum, length))
                    self.tell()

    def answer(self, seqnum, status, length, data):
        self.socket.sendall(struct.pack(">IIIIIiiiii", RET_SUBMIT, seqnum, 0, 0, 0, status, length, 0, 0, 0) + bytes(8) + data)

    def control(self, seqnum, setup, length, out):
        kind, request, value, _, _ = struct.unpack("<BBHHH", setup)
        data, status = b"", 0
        if (kind, request) == (0x80, 6):
            what = value >> 8
            if what == 3 and value & 255 in STRINGS:
                text = STRINGS[value & 255]
                data = bytes([2 + len(text), 3]) + text
            else:
                data = {1: DEVICE, 2: CONFIG}.get(what, b"")
                status = 0 if data else STALL
        elif kind == 0x80:                  # status
            data = bytes(2)
        elif kind == 0xC0:                  # a register
            data = bytes(1)
        elif (kind, request) == (0xA1, 0x21):
            data = struct.pack("<IBBB", *self.line)
        elif (kind, request) == (0x21, 0x20):
            self.line = struct.unpack("<IBBB", out)
        data = data[:length]
        self.answer(seqnum, status, len(out) or len(data), data)

    def tell(self):
        if self.waiting[1] and self.state != self.told:
            seqnum, _ = self.waiting[1].pop(0)
            self.told = self.state
            self.answer(seqnum, 0, 10, bytes(8) + bytes([self.state, 0]))
        while self.waiting[3] and self.unsaid:
            seqnum, length = self.waiting[3].pop(0)
            part, self.unsaid = self.unsaid[:length], self.unsaid[length:]
            self.answer(seqnum, 0, len(part), part)

    def dcd(self, on):
        """(raw before, raw after, whether the kernel was listening)."""
        with self.lock:
            self.state = int(on)
            before = raw()
            listens = bool(self.waiting[1]) and self.state != self.told
            self.tell()
            return before, raw(), listens

    def say(self, text):
        with self.lock:
            self.unsaid = text.encode() if self.waiting[3] else b""
            self.tell()


def sentence(body):
    total = 0
    for c in body:
        total ^= ord(c)
    return f"${body}*{total:02X}\r\n"


def nmea(second):
    clock = time.strftime("%H%M%S", time.gmtime(second)) + ".00"
    where = "4807.038,N,01131.000,E"
    return (sentence(f"GPRMC,{clock},A,{where},0.0,0.0,{time.strftime('%d%m%y', time.gmtime(second))},,,A")
            + sentence(f"GPGGA,{clock},{where},1,09,0.9,545.4,M,46.9,M,,")
            + sentence("GPGSA,A,3,01,02,03,04,05,06,07,08,09,,,,1.5,0.9,1.2"))


class Receiver:
    def __init__(self):
        a = raw()
        utc = time.time_ns()
        self.ahead = utc - (a + raw()) // 2 if A.utc_minus_raw is None else A.utc_minus_raw
        self.off, self.late, self.pulse, self.talk = A.off, A.late, not A.no_pulse, True
        self.adapter = Adapter()
        threading.Thread(target=self.listen, daemon=True).start()
        log("READY", raw(), self.ahead)

    def listen(self):
        try:
            self.adapter.run()
        except (EOFError, OSError):
            os._exit(0)

    def heed(self):
        if not A.ctl:
            return
        while True:
            with open(A.ctl) as f:
                for line in f:
                    what, value = line.split()
                    setattr(self, what, value == "on" if value in ("on", "off") else float(value))
                    log("NOW", what, value)

    def until(self, utc):
        """Sleeps, and then looks at the clock until it is so late."""
        while True:
            left = (utc - self.ahead - raw()) / 1e9
            if left <= 0:
                return
            if left > 0.004:
                time.sleep(left - 0.003)

    def run(self):
        threading.Thread(target=self.heed, daemon=True).start()
        second = (raw() + self.ahead) // 10**9 + 1
        while True:
            self.until(second * 10**9)
            if self.pulse:
                before, after, listens = self.adapter.dcd(True)
                if listens:
                    log("PULSE", second, before, after)
                self.until(second * 10**9 + 10**8)
                self.adapter.dcd(False)
            self.until(second * 10**9 + int(self.late * 1e9))
            if self.talk:
                self.adapter.say(nmea(second + self.off))
                log("SENT", second, raw())
            second = max(second + 1, (raw() + self.ahead) // 10**9)


if __name__ == "__main__":
    Receiver().run()

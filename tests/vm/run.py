#!/usr/bin/env python3
"""Runs the daemon in a real Debian machine with its own kernel clock, and judges it from outside.

  run.py [BINARY] [NAME…]     all tests, or those whose sentence contains one of the names
  run.py --list

setup.sh makes what it needs. Each test restores a booted machine, so they neither see one another nor wait for a boot; some
run side by side, for they mostly wait. One that fails is restored and tried once more, and the report says so.
"""
import argparse
import concurrent.futures
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import core  # noqa: E402
import receiver  # noqa: E402
import timer  # noqa: E402
import vm  # noqa: E402
from bench import ROOT, Guest, HostClock, Wrong, chronyd, free_port  # noqa: E402


class Bench:
    """What all tests share: the binary under test and a real chronyd that serves this machine's time."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = tempfile.mkdtemp(prefix="leadville-vm-run-")
        self.chrony_port = free_port()
        self.chronyd = chronyd(self.folder, self.chrony_port)

    def guest(self, ppm=0.0, real=True, count=3):
        return Guest(self.binary, ppm=ppm, count=count if real else count + 1, real=self.chrony_port if real else None)

    def close(self):
        self.chronyd.terminate()
        self.chronyd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def attempt(function, bench):
    """(measured figures, None) or (what was wrong, evidence)."""
    try:
        return function(bench), None
    except Wrong as wrong:
        return str(wrong), getattr(wrong, "evidence", "")
    except Exception as error:
        return repr(error), traceback.format_exc() + getattr(error, "evidence", "")


def judge(sentence, function, bench):
    """Says at once what came of it; True if it passed, at the second attempt if need be."""
    for again in ("", " (at the second attempt)"):
        began = time.monotonic()
        figures, evidence = attempt(function, bench)
        verdict = "PASS" if evidence is None else "FAIL" if again else "RETRY"
        report = f"{verdict:5}  {sentence}: {figures}{again} [{time.monotonic() - began:.0f} s]"
        print(report if evidence is None else f"{report}\n{evidence}", flush=True)
        if evidence is None:
            return True
    return False


def main(tests=None, name="vm-test"):
    tests = tests or core.TESTS + receiver.TESTS + timer.TESTS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", nargs="?", default=ROOT + "/target/release/leadville-timesync")
    parser.add_argument("names", nargs="*", help="parts of the sentences of the tests to run")
    parser.add_argument("--list", action="store_true", help="list the tests")
    parser.add_argument("--jobs", type=int, default=3, help="machines side by side")
    options = parser.parse_intermixed_args()
    if options.list:
        for sentence, seconds, _ in tests:
            print(f"{sentence}  (about {seconds} s)")
        return 0
    if not os.access(options.binary, os.X_OK):      # only names were given
        options.names.insert(0, options.binary)
        options.binary = parser.get_default("binary")
    if not os.access(options.binary, os.X_OK):
        sys.exit(f"{options.binary} is not there: cargo build --release")
    names = [part.replace("_", " ") for part in options.names]
    chosen = [t for t in tests if not names or any(part in t[0] for part in names)]
    if not chosen:
        sys.exit("no test has such a name: run.py --list")
    chosen.sort(key=lambda t: -t[1])
    began, host, bench = time.monotonic(), HostClock(), Bench(options.binary)
    passed = failed = 0

    def interrupted(*_):
        for process in [*vm.RUNNING, bench.chronyd]:
            process.kill()
        os._exit(1)
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    try:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            running = [pool.submit(judge, sentence, function, bench) for sentence, _, function in chosen]
            for done in concurrent.futures.as_completed(running):
                good = done.result()
                passed, failed = passed + good, failed + (not good)
    finally:
        bench.close()
    sentence = "the clock of the machine that runs the tests is never touched"
    try:
        print(f"PASS   {sentence}: {host.verdict()}")
        passed += 1
    except Wrong as wrong:
        print(f"FAIL   {sentence}: {wrong}")
        failed += 1
    print(f"{name}: {time.monotonic() - began:.0f} s")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Installs the package in a real Debian machine, boots it cold, cuts its power, and removes the package again.

  run.py [DEB] [NAME…]     all tests, or those whose sentence contains one of the names (spaces or underscores)
  run.py --list
  run.py --long [MINUTES]  only how well two machines agree after that time (60 min)

setup.sh makes the machine, debian/build.sh the packages (amd64, and arm64 beside it). A test that fails is tried once
more from the beginning, and the report says so.
"""
import argparse
import concurrent.futures
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from machine import ROOT, TESTS, qemu  # noqa: E402
from bench import HostClock, Wrong  # noqa: E402
import boot  # noqa: E402,F401
import host  # noqa: E402,F401
import install  # noqa: E402,F401
import pair  # noqa: E402,F401
import programs  # noqa: E402,F401


def judge(sentence, function, bench):
    for again in ("", " (at the second attempt)"):
        began = time.monotonic()
        try:
            figures, evidence = function(bench), None
        except Wrong as wrong:
            figures, evidence = str(wrong), getattr(wrong, "evidence", "")
        except Exception as error:          # the harness itself may be what failed
            figures, evidence = repr(error), traceback.format_exc() + getattr(error, "evidence", "")
        verdict = "PASS" if evidence is None else "FAIL" if again else "RETRY"
        report = f"{verdict:5}  {sentence}: {figures}{again} [{time.monotonic() - began:.0f} s]"
        print(report if evidence is None else f"{report}\n{evidence}", flush=True)
        if evidence is None:
            return True
    return False


def newest():
    found = sorted(glob.glob(ROOT + "/target/debian/*_amd64.deb"), key=os.path.getmtime)
    return found[-1] if found else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="a package, parts of the sentences of the tests to run")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--long", nargs="?", type=float, const=60, metavar="MINUTES")
    parser.add_argument("--jobs", type=int, default=2, help="machines side by side")
    options = parser.parse_args()
    if options.list:
        for sentence, seconds, _ in TESTS:
            print(f"{sentence}  (about {seconds} s)")
        return 0
    debs = [os.path.abspath(n) for n in options.names if n.endswith(".deb")]
    names = [n.replace("_", " ") for n in options.names if not n.endswith(".deb")]
    deb = debs[0] if debs else newest()
    if not deb:
        sys.exit("there is no package: debian/build.sh amd64; debian/build.sh arm64")
    tests = pair.LONG if options.long else TESTS
    chosen = sorted((t for t in tests if not names or any(n in t[0] for n in names)), key=lambda t: -t[1])
    if not chosen:
        sys.exit("no test has such a name: run.py --list")
    subprocess.run([HERE + "/setup.sh"], check=True)
    folder = tempfile.TemporaryDirectory(prefix="leadville-packages-")     # a build meanwhile replaces nothing
    for path in glob.glob(os.path.dirname(deb) + "/*.deb"):
        shutil.copy(path, folder.name)
    bench = types.SimpleNamespace(deb=f"{folder.name}/{os.path.basename(deb)}", minutes=options.long)

    def interrupted(*_):
        for process in list(qemu.RUNNING):
            process.kill()
        os._exit(1)
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    began, clock = time.monotonic(), HostClock()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        good = list(pool.map(lambda t: judge(t[0], t[2], bench), chosen))
    try:
        print(f"PASS   the clock of the machine that runs the tests is never touched: {clock.verdict()}")
        good.append(True)
    except Wrong as wrong:
        print(f"FAIL   the clock of the machine that runs the tests is never touched: {wrong}")
        good.append(False)
    print(f"vm-test-package: {time.monotonic() - began:.0f} s")
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())

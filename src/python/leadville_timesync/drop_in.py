"""Puts the daemon behind the former system's own programs, whose files stay as they are.

Importing this makes `impact_bridge.time_sync` and `impact_bridge.ntp_client` mean ours, wherever the
rest of `impact_bridge` is. Or start a program with it, unchanged:

    python3 -m leadville_timesync.drop_in -m impact_bridge.leadville_bridge
    python3 -m leadville_timesync.drop_in scripts/run_bridge.py

or for a service, in any virtual environment, in its unit:

    Environment=PYTHONPATH=/usr/share/leadville-timesync/drop-in
"""
from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import runpy
import sys
from types import ModuleType
from typing import Any, Optional

REPLACED = {
    "impact_bridge.time_sync": "leadville_timesync.time_sync",
    "impact_bridge.ntp_client": "leadville_timesync.ntp_client",
}


class _Ours(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds our modules under the former names, before anybody else is asked."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        return importlib.machinery.ModuleSpec(name, self) if name in REPLACED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        ours = importlib.import_module(REPLACED[module.__name__])
        module.__dict__.update({k: v for k, v in vars(ours).items() if not k.startswith("__") or k == "__doc__"})


def install() -> None:
    """From now on the former names mean ours. Call it before they are imported."""
    if not any(isinstance(finder, _Ours) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Ours())


install()

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or arguments == ["-m"]:
        sys.exit("usage: python3 -m leadville_timesync.drop_in -m MODULE | FILE [ARGUMENTS]")
    # What `python3 -m` and `python3 FILE` themselves put first in the path.
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, "")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")

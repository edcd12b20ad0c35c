#!/bin/bash
# setup.sh : what the package tests need beyond tests/vm/setup.sh: an emulator for the arm64 program, and Bookworm's root for a
# chroot (kept as a tar in $VM_DIR, else ${XDG_CACHE_HOME:-~/.cache}/leadville-vm). Debian 12 or 13, as root. Quick when all is there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/../vm/setup.sh"
dir=${VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/leadville-vm}

if ! command -v qemu-aarch64-static > /dev/null && ! command -v qemu-aarch64 > /dev/null; then
  echo "vm-test-package: installing QEMU's emulator for arm64 programs"
  lists() { apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
  export DEBIAN_FRONTEND=noninteractive
  lists install -y --no-install-recommends qemu-user-static > /dev/null 2>&1 ||
    { lists update && lists install -y --no-install-recommends qemu-user-static > /dev/null; }
fi

tar=$dir/bookworm-chroot.tar
if ! [ -f "$tar" ]; then
  echo "vm-test-package: a root of Bookworm is made (about half a minute, once)"
  mirror=$("$here/../vm/mirror.sh" bookworm 2> /dev/null || "$here/../vm/mirror.sh")
  mmdebstrap --mode=root --variant=apt --include=systemd,systemd-timesyncd --aptopt='APT::Install-Recommends "false"' \
    bookworm "$tar.new.tar" "$mirror" > "$dir/bookworm-chroot.log" 2>&1 || { tail -30 "$dir/bookworm-chroot.log"; exit 1; }
  mv "$tar.new.tar" "$tar"
fi

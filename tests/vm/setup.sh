#!/bin/bash
# setup.sh [SUITE [ARCH]] : everything the VM tests need: QEMU, chronyd, the guest's image, a snapshot of it booted.
# Debian 12 or 13, as root. Quick when there is nothing left to do. What it makes lives in $VM_DIR, else in
# ${XDG_CACHE_HOME:-~/.cache}/leadville-vm, never in the repository.
set -euo pipefail
suite=${1:-trixie} arch=${2:-amd64}
here=$(cd "$(dirname "$0")" && pwd)
dir=${VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/leadville-vm}
mkdir -p "$dir"
exec 9> "$dir/setup.lock"; flock 9                # two runs at once would build the same image twice

say() { echo "vm-test: $*"; }
need_root() { [ "$(id -u)" = 0 ] || { echo "vm-test: $1 needs root: run this once as root" >&2; exit 1; }; }

tools_there() {
  for tool in qemu-system-x86_64 qemu-img mmdebstrap mke2fs python3; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$tool" > /dev/null 2>&1 || return 1
  done
}

install_tools() {
  need_root "installing QEMU"
  export DEBIAN_FRONTEND=noninteractive
  . /etc/os-release
  local from=()
  if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    # Debian 12's qemu-utils may be newer than its QEMU; both come from backports, from the mirror already in use.
    if ! grep -rqs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
      local uri; uri=$("$here/mirror.sh" bookworm)
      printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
        "$uri" > /etc/apt/sources.list.d/bookworm-backports.sources
    fi
    from=(-t bookworm-backports)
  fi
  say "installing QEMU and mmdebstrap"
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${from[@]}" qemu-system-x86 qemu-utils mmdebstrap e2fsprogs python3 > /dev/null
}

tools_there || install_tools
VM_DIR=$dir "$here/../chronyd.sh" > /dev/null                # serves the guests from the host

# The image is built again when what goes into it changes; the snapshot when the image, QEMU or its contents change.
stamp() { cat "$@" | sha256sum | cut -c1-16; }
img=$dir/img-$suite-$arch
want=$(stamp "$here/build-image.sh" "$here"/guest/agent.py "$here"/guest/customize.sh "$here"/guest/vm-agent.service)
if [ "$(cat "$img/stamp" 2>/dev/null || true)" != "$want" ]; then
  need_root "building the guest's image"
  say "building the guest's image (about 2 min, once)"
  VM_DIR=$dir "$here/build-image.sh" "$suite" "$arch" > "$dir/build-$suite-$arch.log" 2>&1 || { tail -30 "$dir/build-$suite-$arch.log"; exit 1; }
  echo "$want" > "$img/stamp"
fi
[ "$arch" = amd64 ] || exit 0
want=$( (cat "$img/stamp" "$here/vm.py" "$here/snap.py" "$here/amg_vhci.py" "$here/client_bleak.py"; qemu-system-x86_64 --version) | sha256sum | cut -c1-16)
if [ "$(cat "$dir/booted-$suite/stamp" 2>/dev/null || true)" != "$want" ]; then
  say "booting the guest once and keeping a snapshot (about 1 min, once)"
  VM_DIR=$dir python3 "$here/snap.py" make "$suite" > "$dir/snap-$suite.log" 2>&1 || { tail -30 "$dir/snap-$suite.log"; exit 1; }
  echo "$want" > "$dir/booted-$suite/stamp"
fi

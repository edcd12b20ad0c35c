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

# Both are made again when what goes into them changes (their names say from what), and old ones go.
img=$(VM_DIR=$dir python3 "$here/snap.py" image "$suite" "$arch")
if ! [ -d "$img" ]; then
  need_root "building the guest's image"
  say "building the guest's image (about 2 min, once)"
  "$here/build-image.sh" "$suite" "$arch" "$img" > "$dir/build-$suite-$arch.log" 2>&1 || { tail -30 "$dir/build-$suite-$arch.log"; exit 1; }
fi
touch "$img"
if [ "$arch" = amd64 ]; then
  say "the guest is booted once and kept as a snapshot (about 1 min, once)" > "$dir/snap-$suite.log"
  VM_DIR=$dir python3 "$here/snap.py" make "$suite" >> "$dir/snap-$suite.log" 2>&1 || { tail -30 "$dir/snap-$suite.log"; exit 1; }
fi
# gpsd for the guest, which has no time to ask a mirror; newer ones are taken when the folder is removed.
debs=$dir/gpsd-trixie
if [ "$suite-$arch" = trixie-amd64 ] && ! [ -d "$debs" ]; then
  say "fetching Debian's gpsd (once)"
  apt=$(mktemp -d "$dir/apt.XXXXXX"); mkdir -p "$apt/lists/partial" "$debs.new"; : > "$apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $("$here/mirror.sh") trixie main" > "$apt/sources.list"
  fetch() {
    apt-get -qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists" \
      -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" -o APT::Architecture=amd64 -o APT::Sandbox::User=root "$@"
  }
  fetch update && (cd "$debs.new" && fetch download gpsd libgps30t64 libusb-1.0-0 libbluetooth3 netbase adduser)
  rm -rf "$apt"; mv "$debs.new" "$debs"
fi
find "$dir" -mindepth 1 -maxdepth 1 \( -name 'img-*' -o -name 'booted-*' \) -mtime +7 -exec rm -rf {} +

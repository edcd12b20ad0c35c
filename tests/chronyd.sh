#!/bin/bash
# chronyd.sh : prints the path of a chronyd to test against, Debian's own.
# An installed one is taken as it is. Otherwise the package is unpacked into the cache and not installed: installing it
# would start a second clock daemon on this machine and remove systemd-timesyncd, and no test has any business doing that.
set -euo pipefail
dir=${VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/leadville-vm}/chrony
for candidate in /usr/sbin/chronyd "$dir/usr/sbin/chronyd"; do
  if "$candidate" --version > /dev/null 2>&1; then echo "$candidate"; exit 0; fi
done
fetch=$(mktemp -d); trap 'rm -rf "$fetch"' EXIT; chmod 755 "$fetch"
(cd "$fetch" && { apt-get download -qq chrony || { apt-get update -qq && apt-get download -qq chrony; }; }) > /dev/null 2>&1 ||
  { echo "chronyd.sh: Debian's package chrony could not be fetched (apt-get download chrony)" >&2; exit 1; }
mkdir -p "$dir"; dpkg-deb -x "$fetch"/chrony_*.deb "$dir"
if ! "$dir/usr/sbin/chronyd" --version > /dev/null 2>&1; then     # its libraries, and nothing else of it
  libs=$(dpkg-deb -f "$fetch"/chrony_*.deb Depends | tr ',' '\n' | sed 's/^ *//; s/[( |:].*//' | grep '^lib')
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $libs > /dev/null
fi
"$dir/usr/sbin/chronyd" --version > /dev/null || { echo "chronyd.sh: $dir/usr/sbin/chronyd does not run" >&2; exit 1; }
echo "$dir/usr/sbin/chronyd"

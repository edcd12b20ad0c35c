#!/bin/sh
# build.sh [amd64|arm64]     the package, in target/debian/, checked by lintian
# build.sh --twice [ARCH]    the package built again from nothing under another path: the same bytes?
# Installs what it lacks (as root, with apt and rustup); needs cargo from rustup in PATH.
set -eu
twice=''
if [ "${1:-}" = --twice ]; then twice=yes; shift; fi
arch=${1:-amd64}
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin
case $arch in
amd64) triple=x86_64-unknown-linux-gnu; tools='' ;;
arm64) triple=aarch64-unknown-linux-gnu; tools='gcc-aarch64-linux-gnu binutils-aarch64-linux-gnu libc6-dev-arm64-cross' ;;
*) echo "build.sh: amd64 or arm64, not $arch" >&2; exit 2 ;;
esac
[ "$(dpkg --print-architecture)" = "$arch" ] && tools=''

missing=''
for package in debhelper dpkg-dev gcc libc6-dev lintian $tools; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    sudo=''
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq || true
    # shellcheck disable=SC2086  # several words are meant
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing
fi
sysroot=$(rustc --print sysroot)
[ -d "$sysroot/lib/rustlib/$triple" ] || rustup target add "$triple"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
packaged=$(dpkg-parsechangelog -S Version)
if [ "$version" != "$packaged" ]; then
    echo "build.sh: Cargo.toml says $version, debian/changelog says $packaged" >&2
    exit 1
fi

CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export CARGO_HOME RUSTUP_HOME
umask 022
export DEB_BUILD_OPTIONS=nocheck LC_ALL=C.UTF-8
log=target/debian/build-$arch.log
mkdir -p target/debian
for target in clean binary; do
    if ! dpkg-architecture -a"$arch" -f -c debian/rules $target > "$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "build.sh: the build failed; all of it is in $log" >&2
        exit 1
    fi
done

if [ -n "$twice" ]; then
    other=$(mktemp -d)
    trap 'rm -rf "$other"' EXIT
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$other"
    "$other/debian/build.sh" "$arch"
    cmp "target/debian/leadville-timesync_${version}_$arch.deb" "$other/target/debian/leadville-timesync_${version}_$arch.deb"
    echo "$arch: the same bytes, built in $(pwd) and in $other"
    exit
fi

deb=target/debian/leadville-timesync_${version}_$arch.deb
lintian --fail-on error,warning --tag-display-limit 0 "$deb"
echo "$deb: $(stat -c %s "$deb") bytes, sha256 $(sha256sum "$deb" | cut -c1-16), lintian clean"

#!/bin/bash
# build-image.sh SUITE ARCH FOLDER : a small Debian machine for end-to-end tests (trixie or bookworm, amd64 or arm64).
# Leaves vmlinuz, initrd.img, root.qcow2 and packages.txt in FOLDER; .deb files are kept in the cache folder beside it.
# Needs root, mmdebstrap, e2fsprogs, qemu-utils. Takes about 2 min and 140 MiB of downloads the first time.
set -euo pipefail
suite=$1 arch=$2 final=$3
here=$(cd "$(dirname "$0")" && pwd)
dir=$(dirname "$final") out=$final.new
cache=$dir/cache/$suite-$arch
mirror=$("$here/mirror.sh")
rm -rf "$out"; mkdir -p "$out" "$cache"
root=$(mktemp -d "$dir/root.XXXXXX"); trap 'rm -rf "$root"' EXIT; chmod 755 "$root"
# Like Pi OS, the guest keeps time with systemd-timesyncd until something replaces it. Real NTP servers run on the host
# (the guest sees them at 10.0.2.2:PORT): one inside would serve the very clock under test. bluez is for the timer,
# nftables and iproute2 break the network, strace proves what was not called; the cloud kernel lacks Bluetooth.
inc=systemd-sysv,systemd-timesyncd,dbus,udev,kmod,iproute2,nftables,strace,python3,bluez,linux-image-$arch,initramfs-tools,zstd
[ "${VM_BLEAK:-1}" = 1 ] && inc=$inc,python3-bleak
mmdebstrap --mode=root --variant=apt --architectures="$arch" --include="$inc" \
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --skip=cleanup/apt/cache,download/empty \
  --setup-hook='mkdir -p "$1"/var/cache/apt/archives' --setup-hook="sync-in $cache /var/cache/apt/archives" \
  --essential-hook='mkdir -p "$1"/etc/initramfs-tools/conf.d; printf "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\n" > "$1"/etc/initramfs-tools/conf.d/zz-vm; printf "virtio_pci\nvirtio_mmio\nvirtio_blk\next4\n" > "$1"/etc/initramfs-tools/modules' \
  --customize-hook="copy-in $here/guest/agent.py /usr/local/lib" \
  --customize-hook="copy-in $here/guest/vm-agent.service /etc/systemd/system" \
  --customize-hook="$here/guest/customize.sh \"\$1\"" \
  --customize-hook="sync-out /var/cache/apt/archives $cache" \
  --customize-hook='rm -rf "$1"/var/cache/apt/archives/* "$1"/var/lib/apt/lists/*' \
  "$suite" "$root" "$mirror"
cp "$root"/boot/vmlinuz-* "$out/vmlinuz"; cp "$root"/boot/initrd.img-* "$out/initrd.img"
chroot "$root" dpkg-query -W > "$out/packages.txt" || true
mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 -L root -m 0 -d "$root" "$out/rootfs.ext4" 2G
qemu-img convert -q -O qcow2 "$out/rootfs.ext4" "$out/root.qcow2"; rm -f "$out/rootfs.ext4"
rm -rf "$final"; mv "$out" "$final"
echo "$final: $(du -m "$final/root.qcow2" | cut -f1) MiB"

#!/bin/bash
# What building and testing need, on a fresh Debian machine. Quick when it is there already.
set -euo pipefail
need=()
command -v cc >/dev/null || need+=(build-essential)
command -v python3 >/dev/null || need+=(python3)
command -v chronyd >/dev/null || [ -x /usr/sbin/chronyd ] || need+=(chrony)
command -v dbus-daemon >/dev/null || need+=(dbus-daemon)
command -v ip >/dev/null || [ -x /usr/sbin/ip ] || need+=(iproute2)
command -v ntpdig >/dev/null || need+=(ntpsec-ntpdig)
command -v strace >/dev/null || need+=(strace)
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || need+=(mosquitto)
command -v mosquitto_sub >/dev/null || need+=(mosquitto-clients)
command -v jq >/dev/null || need+=(jq)
[ -x /usr/bin/mypy ] || need+=(mypy)
/usr/bin/python3 -c 'import prometheus_client' 2>/dev/null || need+=(python3-prometheus-client)
if [ ${#need[@]} -gt 0 ]; then
    echo "installing ${need[*]}"
    run=(env DEBIAN_FRONTEND=noninteractive)
    [ "$(id -u)" = 0 ] || run=(sudo "${run[@]}")
    # A test machine's own clock is not ours to keep: the package's daemon must not start.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | "${run[@]}" tee $policy >/dev/null
        "${run[@]}" chmod 755 $policy
        trap '"${run[@]}" rm -f $policy' EXIT
    fi
    "${run[@]}" apt-get -qq update
    "${run[@]}" apt-get -qq install -y --no-install-recommends "${need[@]}" >/dev/null
fi
command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.89 or newer with rustup"; exit 1; }
for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part"
done

#!/bin/bash
# Chromium and its driver, from Debian.
set -euo pipefail
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit
run=(env DEBIAN_FRONTEND=noninteractive)
[ "$(id -u)" = 0 ] || run=(sudo "${run[@]}")
echo "installing chromium and chromium-driver"
"${run[@]}" apt-get -qq update
"${run[@]}" apt-get -qq install -y --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null

#!/bin/bash
# mirror.sh [SUITE] : prints the Debian mirror this machine's apt already uses for SUITE (default: its own release).
set -euo pipefail
. /etc/os-release
suite=${1:-${VERSION_CODENAME:?"not a Debian release"}}
uri=$({ cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } | awk -v suite="$suite" '
  /^[ \t]*$/ { uri = "" }                                    # deb822: stanzas end at an empty line
  $1 == "URIs:" { uri = $2 }
  $1 == "Suites:" { for (i = 2; i <= NF; i++) if ($i == suite && uri) { print uri; exit } }
  $1 == "deb" { for (i = 2; i < NF; i++) if ($i ~ /:\/\// && $(i + 1) == suite) { print $i; exit } }')
[ -n "$uri" ] || { echo "mirror.sh: apt's sources name no mirror of Debian $suite" >&2; exit 1; }
echo "$uri"

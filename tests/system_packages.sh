#!/bin/sh
# Installs the system packages that tests use, and those named as arguments, where this user may; says plainly what is
# missing where not.
set -u
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need redis-server redis-server
need redis-sentinel redis-sentinel
need cc gcc
need curl curl
PATH=$PATH:/usr/sbin need nginx nginx-light
PATH=$PATH:/usr/sbin need ip iproute2
PATH=$PATH:/usr/sbin need sshd openssh-server
need systemd-nspawn systemd-container
PATH=$PATH:/usr/sbin need nft nftables
need sudo sudo
need stunnel4 stunnel4
need pgrep procps
need unshare util-linux
need promtool prometheus
need chromium chromium
for each; do PATH=$PATH:/usr/sbin need "$each" "$each"; done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "apt-get install$missing …"
  export DEBIAN_FRONTEND=noninteractive
  # The packages are wanted, their services are not: policy-rc.d keeps apt from starting any.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && trap 'rm -f "$policy"' EXIT; fi
  # shellcheck disable=SC2086
  { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing; } >/dev/null ||
    { echo "apt-get failed; the tests that need:$missing will be skipped, each saying so" >&2; exit 0; }
else
  echo "not root, or no apt-get: the tests that need:$missing will be skipped, each saying so" >&2
fi

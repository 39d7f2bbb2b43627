#!/bin/sh
# Installs the named Debian packages that are missing, as root; an ordinary user is told what to install and goes on.
set -eu
missing=
for p in "$@"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "not installed, what needs them is skipped:$missing (apt-get install$missing)" >&2
	exit 0
fi
echo "installing from Debian, for emulated machines, boot loaders and images:$missing" >&2
apt-get update -qq
# The policy keeps packages from starting services: the tests start what they need themselves.
policy=/usr/sbin/policy-rc.d
made=
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; made=1; }
status=0
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing || status=$?
[ -z "$made" ] || rm -f "$policy"
exit $status

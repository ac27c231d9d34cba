#!/usr/bin/env bash
# Installs Debian packages whose command or file is missing, and says so.
#
#   install.sh COMMAND:PACKAGE...     COMMAND may be a file's path
set -euo pipefail

packages=()
for pair in "$@"; do
	what=${pair%%:*}
	[ -e "$what" ] || command -v "$what" >/dev/null || packages+=("${pair#*:}")
done
[ ${#packages[@]} -gt 0 ] || exit 0
echo "installing ${packages[*]} with apt-get" >&2
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "install.sh: needs root on Debian; or install them yourself: ${packages[*]}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Another make, and anybody's apt, may be installing at the same time.
exec 9>/run/lock/pinwatch-install
flock 9
apt-get update -qq >&2
apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${packages[@]}" >/dev/null

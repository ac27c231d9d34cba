#!/usr/bin/env bash
# Installs Debian packages whose command or file is missing, and says so.
#
#   install.sh COMMAND:PACKAGE...     COMMAND may be a file's path
set -euo pipefail
busy=$(dirname "$0")/busy.sh

missing() { # of the arguments, into packages
	local pair what
	packages=()
	for pair in "$@"; do
		what=${pair%%:*}
		[ -e "$what" ] || command -v "$what" >/dev/null || packages+=("${pair#*:}")
	done
	[ ${#packages[@]} -gt 0 ]
}

missing "$@" || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "install.sh: needs root on Debian; or install them yourself: ${packages[*]}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
# Another make, and anybody's apt, may be installing at the same time.
lock=/run/lock/pinwatch-install
exec 9>>$lock
flock -n 9 || "$busy" "install.sh: waiting for another install.sh" flock 9
missing "$@" || exit 0
echo "install.sh: installing ${packages[*]} with apt-get" >&2
# The lock file's time is that of the last update.
if [ -z "$(find $lock -size +0 -mmin -10)" ]; then
	"$busy" "install.sh: updating the package lists" apt-get update -qq >&2 9>&-
	date >$lock
fi
"$busy" "install.sh: installing" \
	apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 9>&-

#!/usr/bin/env bash
# Makes a clean root of Debian, once, for the tests of packages, and prints its path. It has
# what a user's machine has besides: man pages, completions, systemd.
set -euo pipefail
here=$(dirname "$0")
suite=bookworm
cache=${PINWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pinwatch}
root=$cache/roots/$suite

"$here/../install.sh" debootstrap:debootstrap >&2
mkdir -p "$cache/roots"
exec 9>"$root.lock"
flock 9
if [ ! -d "$root" ]; then
	rm -rf "$root.part"
	# The mirror that the machine's own apt uses.
	mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" 'Created-By: Packages' | head -1)
	"$here/../busy.sh" "root.sh: debootstrap $suite" debootstrap --variant=minbase \
		--include=bash-completion,dbus,groff-base,man-db,systemd-sysv "$suite" "$root.part" "${mirror:-http://deb.debian.org/debian}" >"$root.log" 2>&1 ||
		{ tail -n 20 "$root.log" >&2; exit 1; }
	mv "$root.part" "$root"
fi
echo "$root"

#!/usr/bin/env bash
# Builds the known-bad kernel: Debian's stock 6.1, with a module, known_bad.c, that puts
# perf_mmap() and its counterpart with the accounting of the past in their place. Which one is
# chosen as the module is loaded, known_bad.accounting=NAME. Prints: known-bad TAB RELEASE TAB
# IMAGE TAB MODULE.
#
# The functions are the stock kernel's own, out of its source, with accounting.patch.
#
# The result is cached by a hash of its inputs outside the tree: half a minute once per machine.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${PINWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pinwatch}/known-bad
busy=$here/../busy.sh

# The headers' objtool links libelf.
"$here/../install.sh" xz:xz-utils gcc-12:gcc-12 make:make patch:patch /usr/lib/x86_64-linux-gnu/libelf.so.1:libelf1
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock -n 9 || "$busy" "build.sh: waiting for another build.sh" flock 9

read -r _ stock image < <("$here/../kernels/fetch.sh" 6.1)
candidate() { apt-cache madison "linux-headers-$stock" | awk -F ' *[|] *' '{ print $2; exit }'; }
version=$(candidate)
if [ -z "$version" ]; then
	"$busy" "build.sh: updating the package lists" apt-get update -qq >&2
	version=$(candidate)
fi
[ -n "$version" ] || { echo "build.sh: apt has no linux-headers-$stock: needs Debian 12" >&2; exit 1; }
release=${version%-*}-known-bad
hash=$(cat "$here"/* <(echo "$stock $version $(gcc-12 -dumpfullversion)") | sha256sum | cut -c1-16)
module=$cache/$hash/known_bad.ko
if [ ! -f "$module" ]; then
	work=$(mktemp -d "$cache/.build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	"$busy" "build.sh: downloading the headers and the source of $stock" apt-get download -qq -o APT::Sandbox::User=root \
		linux-{headers-"$stock",headers-"${stock%-cloud-amd64}"-common,kbuild-6.1,source-6.1}="$version" >&2
	for p in linux-headers* linux-kbuild*; do dpkg -x "$p" .; done
	mkdir module
	cp "$here"/{Kbuild,known_bad.c} module
	"$busy" "build.sh: unpacking the source" sh -c 'dpkg --fsys-tarfile linux-source-*.deb | tar -xO ./usr/src/linux-source-6.1.tar.xz |
		tar -xJ --strip-components=3 -C module --wildcards "*/kernel/events/core.c" "*/kernel/events/internal.h"'
	# The counter that perf charges users by was renamed within 6.1.
	sed -n '/^static void perf_event_init_userpage(/,/^}/p; /^static void perf_mmap_close(/,/^}/p; /^static int perf_mmap(/,/^}/p' module/core.c |
		sed -E 's/->(locked_vm|perf_mlock)\>/->PERF_LOCKED/' >module/accounting.c
	counter=$(sed -nE 's/.*atomic_long_add\(user_extra, &user->([a-z_]+)\);/\1/p' module/core.c)
	patch -s -p1 -d module <"$here/accounting.patch" >&2 ||
		{ echo "build.sh: accounting.patch is not for the perf_mmap() of $version" >&2; exit 1; }
	sed -i "s|/usr/src/|$work/usr/src/|" "usr/src/linux-headers-$stock/Makefile"
	"$busy" "build.sh: compiling" make -s -C "usr/src/linux-headers-$stock" M="$work/module" \
		KCFLAGS="-DPERF_LOCKED=$counter -DRELEASE='\"$release\"'" modules >build.log 2>&1 || { tail -n 40 build.log >&2; exit 1; }
	mkdir -p "$cache/$hash"
	objcopy --strip-debug module/known_bad.ko "$module.part"
	mv "$module.part" "$module"
fi
printf 'known-bad\t%s\t%s\t%s\n' "$release" "$image" "$module"

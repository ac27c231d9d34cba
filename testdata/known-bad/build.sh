#!/usr/bin/env bash
# Builds the known-bad kernel: Debian's linux-source-6.1 with accounting.patch,
# which makes the perf_mmap() accounting selectable at boot between historical
# behaviours, see there. Prints: known-bad TAB RELEASE TAB IMAGE.
#
# The result is cached by a hash of its inputs outside the tree: some minutes on two
# cores once per machine.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${PINWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pinwatch}/known-bad
package=linux-source-6.1
busy=$here/../busy.sh

"$here/../install.sh" flex:flex bison:bison bc:bc pahole:dwarves xz:xz-utils gcc:gcc make:make patch:patch \
	python3:python3 /usr/include/gelf.h:libelf-dev /usr/include/openssl/ssl.h:libssl-dev
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock -n 9 || "$busy" "build.sh: waiting for another build.sh" flock 9

version=$(apt-cache policy $package | sed -n 's/^  Candidate: //p')
if [ -z "$version" ] || [ "$version" = "(none)" ]; then
	"$busy" "build.sh: updating the package lists" apt-get update -qq >&2
	version=$(apt-cache policy $package | sed -n 's/^  Candidate: //p')
fi
[ -n "$version" ] && [ "$version" != "(none)" ] || { echo "build.sh: apt has no $package: needs Debian 12" >&2; exit 1; }
hash=$(cat "$here/accounting.patch" "$here/config" "$here/build.sh" <(echo "$version $(gcc -dumpfullversion)") | sha256sum | cut -c1-16)
image=$cache/$hash/vmlinux
if [ ! -f "$image" ]; then
	echo "build.sh: building $package $version with $(nproc) jobs: some minutes" >&2
	work=$(mktemp -d "$cache/.build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	"$busy" "build.sh: downloading $package" apt-get download -qq -o APT::Sandbox::User=root "$package=$version" >&2
	dpkg -x "$package"_*.deb .
	"$busy" "build.sh: unpacking the source" tar xf usr/src/$package.tar.xz
	cd $package
	patch -s -p1 <"$here/accounting.patch"
	{
		make -s tinyconfig
		scripts/kconfig/merge_config.sh -m .config "$here/config"
		make -s olddefconfig
	} >"$work/config.log" 2>&1 || { cat "$work/config.log" >&2; exit 1; }
	while read -r wanted; do
		grep -qxF "$wanted" .config || { echo "build.sh: the configuration refused $wanted" >&2; exit 1; }
	done < <(grep 'CONFIG_' "$here/config")
	# Nobody debugs it: of what the compiler tells debuggers only the types are wanted. And
	# QEMU starts the kernel proper, by PVH: to pack it takes time, and to unpack it does.
	"$busy" "build.sh: compiling" sh -c 'exec make -s -j"$(nproc)" "$@" >"$0" 2>&1' "$work/build.log" \
		KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=pinwatch KBUILD_BUILD_HOST=known-bad \
		LOCALVERSION=-known-bad KCFLAGS=-fno-var-tracking vmlinux || { tail -n 40 "$work/build.log" >&2; exit 1; }
	mkdir -p "$cache/$hash"
	make -s kernelrelease LOCALVERSION=-known-bad >"$cache/$hash/release"
	objcopy --strip-debug vmlinux "$image.part"
	mv "$image.part" "$image"
fi
printf 'known-bad\t%s\t%s\n' "$(cat "$cache/$hash/release")" "$image"

#!/usr/bin/env bash
# Builds the known-bad kernel: Debian's linux-source-6.1 with accounting.patch,
# which makes the perf_mmap() accounting selectable at boot between historical
# behaviours, see there. Prints: known-bad TAB RELEASE TAB IMAGE.
#
# The image is a vmlinux, which QEMU starts at once: an emulated CPU would unpack a
# bzImage for seconds. It is cached by a hash of its inputs outside the tree: three
# minutes on two cores, once per machine.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
busy=$here/../busy.sh
cache=${PINWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pinwatch}/known-bad
package=linux-source-6.1
files=900 # about as many are compiled

say() { echo "build.sh: $*" >&2; }

"$here/../install.sh" flex:flex bison:bison bc:bc pahole:dwarves xz:xz-utils gcc:gcc make:make patch:patch \
	python3:python3 /usr/include/gelf.h:libelf-dev /usr/include/openssl/ssl.h:libssl-dev
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock -n 9 || "$busy" "build.sh: waiting for another build.sh" flock 9

# The newest version of the package that apt knows.
candidate() { apt-cache policy $package | sed -n 's/^  Candidate: \([^(]\)/\1/p'; }
version=$(candidate)
if [ -z "$version" ]; then
	"$busy" "build.sh: updating the package lists" apt-get update -qq >&2
	version=$(candidate)
fi
[ -n "$version" ] || { say "apt has no $package: needs Debian 12"; exit 1; }

# What is compiled needs no documentation, and of other architectures and most drivers
# no more than what Kconfig and make ask for: a third of the files.
unpack() { # into the current directory
	local top=$package skip
	skip=("$top"/arch/'[!x]*/*.*' "$top"/samples/'*.*' "$top"/{Documentation,tools/testing}/'*/*' "$top"/tools/perf/'*'
		"$top"/{sound,fs/xfs,fs/btrfs,net/netfilter}/'*.[ch]'
		"$top"/drivers/{gpu,net,media,staging,clk,scsi,usb,misc,iio,infiniband,crypto,video,pinctrl,soc,mtd,platform,hwmon,mfd,hid,dma}/'*.[ch]')
	dpkg --fsys-tarfile "${package}"_*.deb | tar -xO "./usr/src/$package.tar.xz" | xz -dc | tar -x "${skip[@]/#/--exclude=}"
}

# Shows on stderr how far make is, by what it says on stdout: a line per file.
progress() {
	local what file compiled=0 now=$SECONDS
	while read -rt 20 what file || [ $? -gt 128 ]; do
		case ${what:-} in
		CC | AS | HOSTCC) compiled=$((compiled + 1)) ;;
		LD | BTF | KSYMS) [[ $file != *vmlinux* ]] || say "linking: $what $file" ;;
		esac
		if ((SECONDS - now >= 20)); then
			say "compiled $compiled of about $files files ($((compiled * 100 / files)) %), $SECONDS s so far"
			now=$SECONDS
		fi
	done
}

build() { # into the current directory
	say "building $package $version with $(nproc) jobs: some minutes, once"
	"$busy" "build.sh: downloading 140 MB of source" apt-get download -qq -o APT::Sandbox::User=root "$package=$version" >&2
	say "unpacking the source"
	export package
	export -f unpack
	"$busy" "build.sh: unpacking the source" bash -euo pipefail -c unpack
	cd $package
	patch -s -p1 <"$here/accounting.patch"
	# Nothing there is traced: without debugging information it is compiled and linked sooner.
	sed -i '1i subdir-ccflags-y += -g0' drivers/Makefile lib/Makefile arch/x86/Kbuild
	KCONFIG_ALLCONFIG=$here/config "$busy" "build.sh: configuring" make -s allnoconfig
	while read -r wanted; do
		grep -qxF "$wanted" .config || { say "the configuration refused $wanted"; return 1; }
	done < <(grep '^CONFIG_' "$here/config")
	make -j"$(nproc)" KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=pinwatch KBUILD_BUILD_HOST=known-bad \
		LOCALVERSION=-known-bad KCFLAGS=-fno-var-tracking vmlinux 2>../errors.log | progress ||
		{ tail -n 40 ../errors.log >&2; return 1; }
}

hash=$(cat "$here/accounting.patch" "$here/config" "$here/build.sh" <(echo "$version $(gcc -dumpfullversion)") | sha256sum | cut -c1-16)
image=$cache/$hash/vmlinux
if [ ! -f "$image" ]; then
	rm -rf "$cache"/.build.* # of one that was killed
	work=$(mktemp -d "$cache/.build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	build
	mkdir -p "$cache/$hash"
	make -s kernelrelease LOCALVERSION=-known-bad >"$cache/$hash/release"
	strip -s -o vmlinux.stripped vmlinux
	mv vmlinux.stripped "$image"
	say "built in $SECONDS s"
fi
printf 'known-bad\t%s\t%s\n' "$(cat "$cache/$hash/release")" "$image"

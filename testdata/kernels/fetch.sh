#!/usr/bin/env bash
# Fetches stock Debian kernels for the guests: downloaded by apt with its own
# signature checks, unpacked, never installed.
#
#   fetch.sh [--arch amd64|arm64] [--list] [SERIES...]
#   fetch.sh [--arch amd64|arm64] --busybox     prints the path of a static busybox
#
# SERIES is a kernel series ("6.1", "7.3"), a 16K-page arm64 flavour
# ("6.12-16k"), or "newest". Without one: the series of $all below.
# Prints one line per kernel: SERIES TAB RELEASE TAB IMAGE.
#
# apt works in a directory of its own, so neither the machine's package lists
# nor its sources change. The mirror is the one the machine's own apt uses.
set -euo pipefail

cache=${PINWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pinwatch}
suites="bullseye bookworm trixie trixie-backports"
all="5.10 6.1 6.12 6.16 6.17 6.18 6.19 7.0 7.1 7.2 7.3"
arch=amd64
list_only=
busybox=

die() { echo "fetch.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
	case $1 in
	--arch) arch=${2:?--arch needs amd64 or arm64}; shift 2 ;;
	--list) list_only=1; shift ;;
	--busybox) busybox=1; shift ;;
	-h|--help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
	-*) die "unknown option $1" ;;
	*) break ;;
	esac
done
case $arch in amd64|arm64) ;; *) die "--arch $arch: want amd64 or arm64" ;; esac

root=$cache/kernels/$arch
apt_dir=$cache/apt/$arch
mkdir -p "$root"
exec 9>"$root/.lock"
flock 9

# One kernel is kept per series: a link SERIES -> RELEASE, made last, so that
# an interrupted fetch leaves nothing that looks complete.
image_of() { # directory -> image file
	local f
	for f in "$1"/boot/vmlinuz-* "$1"/usr/lib/modules/*/vmlinuz{,.unsigned}; do
		[ -f "$f" ] && { echo "$f"; return; }
	done
	return 1
}
# The kernel proper, without what unpacks it: QEMU starts that at once by PVH, where
# an emulated CPU unpacks an image for 2 s. Fails where that cannot be.
vmlinux_of() { # image directory -> vmlinux file
	local vmlinux setup start bytes
	vmlinux=$2/vmlinux-$(basename "$2")
	[ -f "$vmlinux" ] || {
		[ $arch = amd64 ] && command -v zstd >/dev/null || return 1
		# The x86 boot protocol: setup_sects, payload_offset, and payload_length, the last
		# four bytes of which are the size of what is packed.
		setup=$(od -An -tu1 -j 497 -N 1 "$1")
		start=$(od -An -tu4 -j 584 -N 4 "$1")
		bytes=$(od -An -tu4 -j 588 -N 4 "$1")
		head -c $(((setup + 1) * 512 + start + bytes - 4)) "$1" | tail -c $((bytes - 4)) |
			zstd -dqc >"$vmlinux.part" 2>/dev/null && # or it is packed otherwise
			LC_ALL=C grep -qaP '\x08\0\0\0\x12\0\0\0Xen\0' "$vmlinux.part" || # the note XEN_ELFNOTE_PHYS32_ENTRY
			{ rm -f "$vmlinux.part"; return 1; }
		mv "$vmlinux.part" "$vmlinux"
	}
	echo "$vmlinux"
}
report() { # series
	local dir image
	dir=$(readlink -f "$root/$1") && image=$(image_of "$dir") || return 1
	image=$(vmlinux_of "$image" "$dir") || image=$(image_of "$dir")
	printf '%s\t%s\t%s\n' "$1" "$(basename "$dir")" "$image"
}

prepare_apt() {
	[ -z "${apt_ready:-}" ] || return 0
	local mirror
	mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		sed -n 's/^Debian //p' | sort -u | head -n 1)
	if [ -z "$mirror" ]; then # no package lists yet
		echo "fetch.sh: apt-get update (this machine has no package lists)" >&2
		apt-get update -qq >&2
		mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
			sed -n 's/^Debian //p' | sort -u | head -n 1)
	fi
	[ -n "$mirror" ] || die "this machine's apt names no Debian mirror: needs a Debian machine, or kernels put into $root by hand"
	mkdir -p "$apt_dir"/{lists/partial,cache/archives/partial,etc/none}
	: >"$apt_dir/status"
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg s
	[ -f $keyring ] || die "$keyring is missing: apt-get install debian-archive-keyring"
	for s in $suites; do
		echo "deb [arch=$arch signed-by=$keyring] $mirror $s main"
	done >"$apt_dir/etc/sources.list"
	cat >"$apt_dir/apt.conf" <<-CONF
		Dir::Etc::sourcelist "$apt_dir/etc/sources.list";
		Dir::Etc::sourceparts "$apt_dir/etc/none";
		Dir::Etc::preferencesparts "$apt_dir/etc/none";
		Dir::State "$apt_dir";
		Dir::State::status "$apt_dir/status";
		Dir::Cache "$apt_dir/cache";
		Dir::Cache::pkgcache "pkgcache.bin";
		Dir::Cache::srcpkgcache "srcpkgcache.bin";
		APT::Architecture "$arch";
		APT::Architectures { "$arch"; };
		APT::Sandbox::User "";
		Acquire::Languages "none";
		Acquire::Retries "3";
	CONF
	export APT_CONFIG=$apt_dir/apt.conf
	# The lists are fetched once a day: versions come and go on a mirror.
	if [ -z "$(find "$apt_dir/updated" -mtime -1 2>/dev/null)" ]; then
		echo "fetch.sh: fetching the package lists of $suites ($arch)" >&2
		apt-get update -qq >&2
		touch "$apt_dir/updated"
	fi
	apt_ready=1
}

# The newest package of a series that holds a kernel image, as "RELEASE
# PACKAGE". linux-image-* holds it up to 6.18, linux-binary-* since; the
# -unsigned twin is the one that is downloadable everywhere, being no product
# of the signing service. Where both exist they hold the same kernel.
find_package() { # series
	local series=$1 flavour
	case $arch:$series in
	amd64:*) flavour=cloud-amd64 ;;
	arm64:*-16k) series=${series%-16k} flavour=arm64-16k ;;
	arm64:*) flavour=cloud-arm64 ;;
	esac
	apt-cache pkgnames linux- | grep -E "^linux-(image|binary)(-unsigned)?-${series//./\\.}(\.[0-9]+)?[-+~].*-?$flavour(-unsigned)?$" |
		grep -v -- -dbg |
		sed -E "s/^linux-(image|binary)(-unsigned)?-//; s/-unsigned$//" | sort -Vu | tail -n 1
}

# Which of the package names of a release holds the image.
unpack() { # release
	local release=$1 work p
	work=$(mktemp -d "$root/.unpack.XXXXXX")
	trap 'rm -rf "$work"' RETURN
	for p in linux-binary-unsigned-$release linux-binary-$release linux-image-$release-unsigned linux-image-unsigned-$release linux-image-$release; do
		apt-cache show "$p" >/dev/null 2>&1 || continue
		(cd "$work" && apt-get download -qq "$p" >&2) || continue
		dpkg -x "$work"/*.deb "$work/tree"
		rm -f "$work"/*.deb
		if image_of "$work/tree" >/dev/null; then
			# Modules are never loaded in a guest, and are most of the size.
			find "$work/tree" -path '*/kernel/*' -name '*.ko*' -delete
			rm -rf "$root/$release"
			mv "$work/tree" "$root/$release"
			return 0
		fi
		rm -rf "$work/tree"
	done
	return 1
}

newest_series() {
	apt-cache pkgnames linux- | sed -nE "s/^linux-(image|binary)(-unsigned)?-([0-9]+\.[0-9]+)\..*cloud-$arch.*/\3/p" | sort -Vu | tail -n 1
}

if [ -n "$list_only" ]; then
	for s in "$root"/*; do
		[ -L "$s" ] && report "$(basename "$s")"
	done
	exit 0
fi

if [ -n "$busybox" ]; then
	if [ ! -x "$root/.busybox" ]; then
		prepare_apt
		work=$(mktemp -d "$root/.unpack.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		(cd "$work" && apt-get download -qq busybox-static >&2 && dpkg -x ./*.deb tree)
		mv "$(find "$work/tree" -type f -path "*/bin/busybox")" "$root/.busybox"
	fi
	echo "$root/.busybox"
	exit 0
fi

status=0
for series in ${*:-$all}; do
	if [ "$series" = newest ]; then
		# The newest already here serves for a day, as the package lists do.
		prepare_apt
		series=$(newest_series)
		[ -n "$series" ] || die "no kernel package found for $arch"
	fi
	[ -z "${PINWATCH_REFRESH:-}" ] && report "$series" 2>/dev/null && continue
	prepare_apt
	release=$(find_package "$series")
	if [ -z "$release" ]; then
		echo "fetch.sh: no $arch kernel of series $series on this mirror" >&2
		status=1
		continue
	fi
	echo "fetch.sh: $series is $release: downloading" >&2
	[ -d "$root/$release" ] || unpack "$release" || { echo "fetch.sh: $release: no package with an image could be had" >&2; status=1; continue; }
	ln -sfn "$release" "$root/$series"
	report "$series"
done
exit $status

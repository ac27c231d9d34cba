#!/usr/bin/env bash
# Fetches stock Debian kernels for the guests: downloaded by apt with its own
# signature checks, unpacked, never installed.
#
#   fetch.sh [--arch amd64|arm64] [--list] [SERIES...]
#   fetch.sh [--arch amd64|arm64] --busybox     prints the path of a static busybox
#
# SERIES is a kernel series ("6.1", "7.3"), a 16K-page arm64 flavour
# ("6.12-16k"), the generic kernel with its modules, which lie in lib/modules/RELEASE
# ("6.12-generic"), or "newest". Without one: the series of $all below.
# Prints one line per kernel: SERIES TAB RELEASE TAB IMAGE. Ends with 2 where there is no
# such series, after the others, and with 1 where one could not be had.
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

say() { echo "fetch.sh: $*" >&2; }
die() { say "$@"; exit 1; }
usage() { say "$* (see fetch.sh --help)"; exit 2; }

while [ $# -gt 0 ]; do
	case $1 in
	--arch) [ $# -gt 1 ] || usage "--arch: want amd64 or arm64"; arch=$2; shift 2 ;;
	--list) list_only=1; shift ;;
	--busybox) busybox=1; shift ;;
	-h|--help) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 0 ;;
	-*) usage "unknown option $1" ;;
	*) break ;;
	esac
done
case $arch in amd64|arm64) ;; *) usage "--arch $arch: want amd64 or arm64" ;; esac
for series; do # before anything is fetched
	case $arch:$series in
	*:newest) ;;
	amd64:*-16k) usage "series $series: pages of 16K are arm64's: fetch.sh --arch arm64 $series" ;;
	*) [[ $series =~ ^[0-9]+\.[0-9]+(-16k|-generic)?$ ]] ||
		usage "series \"$series\": want one such as 6.1, 6.12-16k or 6.12-generic, or newest" ;;
	esac
done

root=$cache/kernels/$arch
apt_dir=$cache/apt/$arch
busy=$(cd "$(dirname "$0")" && pwd)/../busy.sh
mkdir -p "$root"
exec 9>"$root/.lock"
flock -n 9 || "$busy" "fetch.sh: waiting for another fetch.sh" flock 9
rm -rf "$root"/.unpack.* # of one that was killed
work=$(mktemp -d "$root/.unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT

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

# Images of Docker tell apt to keep no cache of its lists, and every look at them would
# take seconds. That counts for more than what $APT_CONFIG says, and for less than this.
keep_cache="-o Dir::Cache::pkgcache=pkgcache.bin -o Dir::Cache::srcpkgcache=srcpkgcache.bin"

prepare_apt() {
	export APT_CONFIG=$apt_dir/apt.conf
	# Once a day: versions come and go on a mirror. To ask apt for it takes seconds, too.
	if [ -n "$(find "$apt_dir/updated" -mtime -1 -newer "$0" 2>/dev/null)" ]; then
		return
	fi
	configure_apt
	say "fetching the package lists of $suites ($arch)"
	"$busy" "fetch.sh: fetching the package lists" apt-get $keep_cache update -qq >&2
	touch "$apt_dir/updated"
}

mirror() {
	env -u APT_CONFIG apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		sed -n 's/^Debian //p' | sort -u | head -n 1
}

configure_apt() {
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror s
	mirror=$(mirror)
	if [ -z "$mirror" ]; then
		say "updating this machine's package lists, of which it has none"
		env -u APT_CONFIG "$busy" "fetch.sh: updating this machine's package lists" apt-get update -qq >&2
		mirror=$(mirror)
	fi
	[ -n "$mirror" ] || die "this machine's apt names no Debian mirror: needs a Debian machine, or kernels put into $root by hand"
	[ -f $keyring ] || die "$keyring is missing: apt-get install debian-archive-keyring"
	mkdir -p "$apt_dir"/{lists/partial,cache/archives/partial,etc/none}
	: >"$apt_dir/status"
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
		APT::Architecture "$arch";
		APT::Architectures { "$arch"; };
		APT::Sandbox::User "";
		Acquire::Languages "none";
		Acquire::Retries "3";
	CONF
}

# The series and the release of every package that holds a kernel image of a flavour.
# linux-image-* holds it up to 6.18, linux-binary-* since; the -unsigned twin is the
# one that is downloadable everywhere, being no product of the signing service. Where
# both exist they hold the same kernel.
releases() { # flavour
	apt-cache $keep_cache pkgnames linux- |
		sed -nE "s/^linux-(image|binary)(-unsigned)?-(([0-9]+\.[0-9]+)(\.[0-9]+)?[-+~][^-]*-$1)(-unsigned)?$/\4 \3/p" | sort -Vu
}
flavour_of() { # series
	case $arch:$1 in
	arm64:*-16k) echo arm64-16k ;;
	*-generic) echo $arch ;;
	*) echo cloud-$arch ;;
	esac
}
find_release() { # series; prints nothing where there is none
	releases "$(flavour_of "$1")" | awk -v series="${1%%-*}" '$1 == series { release = $2 } END { print release }'
}
newest_series() { releases cloud-$arch | tail -n 1 | cut -d' ' -f1; }
every_series() { # series of the same flavour
	local end=
	case $1 in *-*) end=-${1#*-} ;; esac
	releases "$(flavour_of "$1")" | cut -d' ' -f1 | uniq | sed "s/$/$end/" | paste -sd' '
}

# Which of the package names of a release holds the image.
unpack() { # series, release
	local release=$2 at=$work/$2 leave='*.ko*' p # modules are most of the size, and only asked for
	case $1 in *-generic) leave= ;; esac
	mkdir "$at"
	for p in linux-binary-unsigned-$release linux-binary-$release linux-image-$release-unsigned linux-image-unsigned-$release linux-image-$release; do
		rm -rf "${at:?}"/*
		[ -n "$(apt-cache $keep_cache policy "$p" | sed -n '/^  Candidate: [^(]/p')" ] || continue
		(cd "$at" && "$busy" "fetch.sh: downloading $p" apt-get $keep_cache download -qq "$p" >&2) || continue
		mkdir "$at/tree"
		dpkg --fsys-tarfile "$at"/*.deb | tar -x -C "$at/tree" ${leave:+--exclude="$leave"} || continue
		if image_of "$at/tree" >/dev/null; then
			[ -n "$leave" ] || unpack_modules "$release" "$at" || return
			rm -rf "${root:?}/$release"
			mv "$at/tree" "$root/$release"
			return
		fi
	done
	return 1
}

# Since 6.19 the modules are a package of their own.
unpack_modules() { # release, directory with tree
	[ -z "$(find "$2/tree" -name '*.ko*' -print -quit)" ] || return 0
	rm "$2"/*.deb
	(cd "$2" && "$busy" "fetch.sh: downloading linux-modules-$1" apt-get $keep_cache download -qq "linux-modules-$1" >&2) || return
	dpkg --fsys-tarfile "$2"/*.deb | tar -x -C "$2/tree"
}

fetch() { # series, release
	say "$1 is $2: downloading"
	[ -d "$root/$2" ] || unpack "$1" "$2" || { say "$2: no package with an image could be had"; return 1; }
	ln -sfn "$2" "$root/$1"
	report "$1" >/dev/null # which unpacks it
	say "$1 is here"
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
		(cd "$work" && apt-get $keep_cache download -qq busybox-static >&2 && dpkg -x ./*.deb tree)
		mv "$(find "$work/tree" -type f -path "*/bin/busybox")" "$root/.busybox"
	fi
	echo "$root/.busybox"
	exit 0
fi

status=0
asked=()
fetches=()
for series in ${*:-$all}; do
	if [ "$series" = newest ]; then
		# The newest already here serves for a day, as the package lists do.
		prepare_apt
		series=$(newest_series)
		[ -n "$series" ] || die "no kernel package found for $arch"
	fi
	if [ -n "${PINWATCH_REFRESH:-}" ] || ! report "$series" >/dev/null 2>&1; then
		prepare_apt
		release=$(find_release "$series")
		if [ -z "$release" ]; then
			say "series $series of $arch: there is none on this mirror, which has: $(every_series "$series")"
			status=2
			continue
		fi
		# Downloads wait for the network and unpacking for a CPU: several beside each other.
		while [ "$(jobs -rp | wc -l)" -ge 4 ]; do wait -n || :; done
		fetch "$series" "$release" &
		fetches+=($!)
	fi
	asked+=("$series")
done
for pid in "${fetches[@]}"; do wait "$pid" || status=${status/0/1}; done
for series in "${asked[@]}"; do report "$series" || { say "$series: no image of it is here"; status=${status/0/1}; }; done
exit $status

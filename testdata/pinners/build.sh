#!/usr/bin/env bash
# Builds the modules that charge locked memory and that Debian's kernels lack, for
# Debian 12's 6.12, out of its own source: the vDPA simulator, iommufd, and pinner.c, which pins
# memory of an iommufd. Prints: pinners TAB RELEASE TAB IMAGE; the modules lie beside the
# image, in lib/modules/RELEASE.
#
# The result is cached by a hash of its inputs outside the tree: two minutes once per
# machine.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${PINWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pinwatch}/pinners
package=linux-source-6.12
busy=$here/../busy.sh

# The headers hold the types of the kernel, and so pahole is asked for those of its modules.
"$here/../install.sh" xz:xz-utils gcc:gcc make:make pahole:dwarves
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock -n 9 || "$busy" "build.sh: waiting for another build.sh" flock 9

candidate() { apt-cache policy $package | sed -n 's/^  Candidate: //p'; }
version=$(candidate)
if [ -z "$version" ] || [ "$version" = "(none)" ]; then
	"$busy" "build.sh: updating the package lists" apt-get update -qq >&2
	version=$(candidate)
fi
case $version in *~deb12*) ;; *) echo "build.sh: apt has no $package of Debian 12 (candidate: $version)" >&2; exit 1 ;; esac
base=${version%%-*}+deb12
release=$base-amd64
hash=$(cat "$here"/* <(echo "$version $(gcc -dumpfullversion)") | sha256sum | cut -c1-16)
out=$cache/$hash
if [ ! -d "$out" ]; then
	echo "build.sh: building modules for $release: some minutes" >&2
	work=$(mktemp -d "$cache/.build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	"$busy" "build.sh: downloading $package and $release" apt-get download -qq -o APT::Sandbox::User=root \
		$package linux-{headers-$release,headers-$base-common,kbuild-$base,image-$release-unsigned} >&2
	for p in linux-source* linux-headers* linux-kbuild*; do dpkg -x "$p" .; done
	mkdir made modules
	dpkg --fsys-tarfile linux-image*.deb | tar -x -C made --wildcards './boot/vmlinuz-*' \
		'./lib/modules/*/kernel/drivers/v*' './lib/modules/*/kernel/virt/*'
	"$busy" "build.sh: unpacking the source" tar xf usr/src/$package.tar.xz --strip-components=1 -C modules --wildcards \
		"$package/drivers/vhost/vringh.c" "$package/drivers/vdpa/vdpa_sim/*.[ch]" "$package/drivers/iommu/iommufd/*.[ch]" \
		"$package/drivers/iommu/iommu-priv.h" "$package/lib/interval_tree.c"
	mkdir modules/all
	cp modules/drivers/vhost/*.c modules/drivers/vdpa/vdpa_sim/*.[ch] modules/drivers/iommu/iommufd/*.[ch] "$here"/{Kbuild,pinner.c} modules/all
	cp modules/drivers/iommu/iommu-priv.h modules
	# The part of interval_tree.c that Debian's kernel has no use for.
	{
		printf '#include <linux/%s.h>\n' interval_tree module
		sed -n '/ifdef CONFIG_INTERVAL_TREE_SPAN_ITER/,/endif/p' modules/lib/interval_tree.c | sed '1d;$d' | grep -v EXPORT_SYMBOL
	} >modules/all/span.c
	# With addresses of user space nothing is pinned.
	sed -i 's/^static bool use_va = true;/static bool use_va;/' modules/all/vdpa_sim.c
	grep -q '^static bool use_va;' modules/all/vdpa_sim.c
	sed -i "s|/usr/src/|$work/usr/src/|" usr/src/linux-headers-$release/Makefile
	"$busy" "build.sh: compiling" make -s -C usr/src/linux-headers-$release M="$work/modules/all" modules >build.log 2>&1 || { tail -n 40 build.log >&2; exit 1; }
	cp modules/all/*.ko made/lib/modules/$release/kernel
	mv made "$out"
fi
printf 'pinners\t%s\t%s\n' "$release" "$out/boot/vmlinuz-$release"

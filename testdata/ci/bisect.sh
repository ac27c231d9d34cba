#!/usr/bin/env bash
# Finds the commit that broke the accounting of locked memory, in a tree of the kernel:
#
#   git bisect start BAD GOOD
#   git bisect run /path/to/bisect.sh [SCENARIO,...]
#
# Builds each revision, boots it in QEMU, and checks it by some scenarios; `pinwatch check
# --list` has all. A revision that does not build, does not boot or lacks a feature is
# skipped (125); a wrong scenario ends the bisection (129).
#
# BUILD is what builds the image, and TREE where it is then (with make O=TREE). PINWATCH is
# the program.
set -euo pipefail

pinwatch=${PINWATCH:-pinwatch}
build=${BUILD:-make -s -j"$(nproc)" olddefconfig bzImage}
tree=${TREE:-.}
scenarios=${1:-past-allowance,map-twice}

command -v "$pinwatch" >/dev/null || {
	echo "bisect.sh: no $pinwatch: put it into PATH, or name it by PINWATCH" >&2
	exit 129
}
bash -c "$build" || exit 125
exec "$pinwatch" check --exit bisect --kernel "$tree" --scenario "$scenarios"

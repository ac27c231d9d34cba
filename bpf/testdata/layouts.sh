#!/bin/sh
# Compiles layouts.c for every version at which a structure changed: layouts-MAJOR.MINOR.o,
# of which the tests read the types.
set -eu
cd "$(dirname "$0")"
for linux in 4.19 5.1 5.3 5.5; do
	number=$(echo "$linux" | awk -F. '{ print 100 * $1 + $2 }')
	"${BPF2GO_CC:-clang-19}" -target bpf -g -O2 -Wall -Werror -DLINUX="$number" -c layouts.c -o "layouts-$linux.o"
	llvm-strip-19 -g -R .rel.BTF "layouts-$linux.o"
done

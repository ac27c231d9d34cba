#!/bin/sh
# llvm-strip for bpf2go: without the relocations of what only debuggers and the
# verifier's log read, which are in place already. They are a quarter of an object.
exec llvm-strip-19 -R .rel.BTF -R .rel.BTF.ext "$@"

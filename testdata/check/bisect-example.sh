#!/usr/bin/env bash
# A worked example of git bisect run: finds the commit that breaks the accounting.
#
#   bisect-example.sh PINWATCH IMAGE MODULE       in an empty directory
#
# In a kernel tree the script that bisect runs builds the kernel, and skips what
# does not build:
#
#   #!/bin/sh
#   make -s -j"$(nproc)" bzImage || exit 125
#   exec pinwatch check --exit bisect --kernel arch/x86/boot/bzImage --scenario past-allowance,map-twice
#
#   git bisect start BAD GOOD && git bisect run ./bisect.sh
#
# Here one kernel stands in for all: IMAGE and MODULE are testdata/known-bad's, and the
# "source" is the parameter that selects its accounting. One commit does not boot.
set -euo pipefail
pinwatch=$1
image=$2
module=$3

git init -q -b main .
git config user.name example
git config user.email example@localhost
commit() { # accounting, subject
	echo "known_bad.accounting=$1" >parameters
	echo "$2" >>history
	git add . && git commit -q -m "$2"
}
commit right "perf: a good start"
commit right "perf: comments"
commit right "perf: rename a variable"
commit right "perf: more comments"
commit "right rdinit=/nowhere" "perf: this one does not boot"
commit right "perf: now it boots again"
commit cumulative "perf: simplify the accounting"
commit cumulative "perf: still more comments"
commit cumulative "perf: rename it back"

cat >bisect.sh <<SCRIPT
#!/bin/sh
exec "$pinwatch" check --exit bisect --kernel "$image" --module "$module" --append "\$(cat parameters)" --scenario past-allowance,map-once
SCRIPT
chmod +x bisect.sh
git bisect start HEAD HEAD~8
git bisect run ./bisect.sh
git bisect log

#!/usr/bin/env bash
# Runs a command that may say nothing for minutes, and says every 20 s that it is
# still at it.
#
#   busy.sh WHAT COMMAND...     WHAT is what it does, as in "fetch.sh: downloading 6.1"
set -euo pipefail
what=$1
shift

# The end of this script, however it comes, closes the pipe, and that ends the ticker.
exec 8> >(
	while code=0; read -rt 20 || code=$?; [ $code -gt 128 ]; do
		echo "$what: $SECONDS s so far" >&2
	done
)
"$@" 8>&-

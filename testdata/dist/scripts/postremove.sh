#!/bin/sh
# Recordings stay until the package is purged (dpkg) or they are removed by hand (rpm).
#   dpkg: remove, purge, upgrade, ...     rpm: 0 removal, 1 upgrade
set -e
case "$1" in
remove | 0) rm -rf /run/pinwatch ;;
purge) rm -rf /var/lib/pinwatch ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi

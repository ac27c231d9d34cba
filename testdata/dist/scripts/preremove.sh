#!/bin/sh
# The agent ends, and starts no more, when its package goes.
#   dpkg: remove, upgrade, ...     rpm: 0 removal, 1 upgrade
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
command -v systemctl >/dev/null || exit 0
if [ -d /run/systemd/system ]; then
	systemctl --quiet stop pinwatch-agent.service
fi
systemctl --quiet disable pinwatch-agent.service

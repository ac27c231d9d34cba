#!/bin/sh
# Installing starts nothing. An agent that runs goes on as the new version; one that cannot is
# systemctl's to tell, and the package is installed all the same.
#   dpkg: configure [OLD-VERSION]     rpm: 1 install, 2 upgrade
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
case "$1 $2" in
"configure "?* | "2 "*) systemctl try-restart pinwatch-agent.service || : ;;
esac

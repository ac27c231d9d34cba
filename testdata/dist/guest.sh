#!/usr/bin/env bash
# What an administrator does with the package, as a service of a guest that systemd has booted
# with the agent enabled. It prints each command and what that says: systemd_test.go reads it.
# shellcheck disable=SC2016 # run has a shell of its own expand what it is given
set -uo pipefail

run() {
	printf '\n$ %s\n' "$1"
	(bash -c "$1" 2>&1 || echo "exit status $?") | cat # which is no terminal
}

# Repeats a command until it succeeds, for as long as a busy machine may want.
await() {
	local late=$((SECONDS + 300))
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $late ] || { echo "not within five minutes: $*"; return; }
		sleep 0.5
	done
}
again() { systemctl is-active -q pinwatch-agent && [ "$(systemctl show -P NRestarts pinwatch-agent)" = "$1" ]; }
recorded() { [ "$(pinwatch replay /var/lib/pinwatch | grep -c ' refusal .* EPERM *$')" = "$1" ]; }

# What a scraper does, by what a minimal Debian has.
get() {
	exec 3<>/dev/tcp/127.0.0.1/9435 && printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3 && tr -d '\r' <&3 | sed '1,/^$/d'
}
export -f get

# What could be left of it where it was: files, cgroups, processes, probes.
left() {
	find / /run /sys/fs/cgroup /sys/fs/bpf -xdev -name '*pinwatch*' ! -path /pinwatch.deb
	grep -l pinwatch /proc/[0-9]*/comm
	grep pinwatch /sys/kernel/tracing/kprobe_events
	systemctl list-unit-files --no-legend '*pinwatch*'
	systemctl list-units --no-legend '*pinwatch*'
}
export -f left

refuse='pinwatch workload perf-buffers --quiet --uid 2001'

echo "== boot"
run 'systemctl status --no-pager --lines=0 pinwatch-agent'
run 'grep -E "^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):" /proc/$(systemctl show -P MainPID pinwatch-agent)/status'
run 'pinwatch workload bpf-maps --quiet'
run "$refuse"
await recorded 1
run 'get /metrics | grep ^pinwatch_'
run 'journalctl -u pinwatch-agent -o cat --no-pager'

echo; echo "== killed"
run 'systemctl kill -s KILL pinwatch-agent'
await again 1
run "$refuse"
await recorded 2
run 'get /healthz'
run 'pinwatch replay /var/lib/pinwatch'

echo; echo "== stopped"
run 'systemctl stop pinwatch-agent; systemctl show -p ActiveState -p Result -p ExecMainStatus pinwatch-agent'

echo; echo "== upgraded"
run 'systemctl start pinwatch-agent; systemctl show -P MainPID pinwatch-agent >/tmp/before'
run 'dpkg -i /pinwatch.deb >/dev/null; systemctl is-active pinwatch-agent'
run 'systemctl show -P MainPID pinwatch-agent | cmp -s /tmp/before || echo another process'

echo; echo "== upgraded, and it cannot start"
run 'mkdir /run/systemd/system/pinwatch-agent.service.d; printf "[Service]\nExecStart=\nExecStart=false\n" >/run/systemd/system/pinwatch-agent.service.d/broken.conf'
run 'dpkg -i /pinwatch.deb >/dev/null && dpkg-query -W -f "\${Status}\n" pinwatch'
run 'rm -r /run/systemd/system/pinwatch-agent.service.d; systemctl daemon-reload; systemctl restart pinwatch-agent'

echo; echo "== cannot trace"
run 'mkdir /run/systemd/system/pinwatch-agent.service.d; printf "[Service]\nCapabilityBoundingSet=\n" >/run/systemd/system/pinwatch-agent.service.d/nothing.conf'
run 'systemctl daemon-reload; systemctl restart pinwatch-agent; sleep 8; systemctl show -p ActiveState -p Result -p ExecMainStatus -p NRestarts pinwatch-agent'
run 'rm -r /run/systemd/system/pinwatch-agent.service.d; systemctl daemon-reload; systemctl restart pinwatch-agent; systemctl is-active pinwatch-agent'

echo; echo "== removed"
run 'dpkg -r pinwatch >/dev/null'
run 'left'

echo; echo "== installed"
run 'dpkg -i /pinwatch.deb'
run 'pinwatch trace -- pinwatch workload perf-buffers --quiet --pages 256'
run 'systemctl enable --now pinwatch-agent'
run 'get /healthz'

echo; echo "== purged"
run 'dpkg -P pinwatch >/dev/null'
run 'left'
run 'journalctl -k -o cat --no-pager | grep -E "type=1326|segfault|BUG|Oops"'

echo; echo "== end"

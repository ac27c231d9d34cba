package check

import (
	"os"

	"github.com/pinwatch/pinwatch/tracer/child"
)

// The processes that a check starts, besides those of package workload.
const (
	actorChild    = "check-actor"
	watchdogChild = "check-watchdog"
)

// Children are those processes, for child.Init.
func Children() child.Table {
	return child.Table{
		actorChild:    func(string) error { return act() },
		watchdogChild: func(string) error { return Watchdog(os.Stdin) },
	}
}

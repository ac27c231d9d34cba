package workload

import (
	"context"
	"os"
	"os/exec"

	"github.com/pinwatch/pinwatch/tracer/child"
)

// The processes that workloads start.
const (
	sharerChild      = "sharer"
	soakWorkerChild  = "soak-worker"
	mapperChild      = "mapper"
	perfBuffersChild = "perf-buffers"
	nothingChild     = "nothing"
	holderChild      = "holder"
	lifterChild      = "lifter"
)

// Children are those processes, for child.Init.
func Children() child.Table {
	return child.Table{
		sharerChild:      child.Of(func(pages int) error { return share(pages, os.Stdin, os.Stdout) }),
		soakWorkerChild:  child.Of(soakWorker.run),
		mapperChild:      func(string) error { return serveMapper(os.Stdin, os.Stdout) },
		perfBuffersChild: child.Of(func(p PerfBuffers) error { return p.Run(os.Stdout) }),
		nothingChild:     func(string) error { return nil },
		lifterChild:      child.Of(func(limit string) error { return runLifter(limit, os.Stdin, os.Stdout) }),
		holderChild:      child.Of(func(h holder) error { return h.run(os.Stdin, os.Stdout) }),
	}
}

// Command returns a command that runs the workload in a process of its own. Its errors
// go to the standard error.
func (p *PerfBuffers) Command(ctx context.Context) *exec.Cmd {
	cmd := child.Command(ctx, perfBuffersChild, p)
	cmd.Stderr = os.Stderr
	return cmd
}

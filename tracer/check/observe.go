// Package check exercises a kernel and says whether its accounting holds.
package check

import (
	"context"
	"fmt"
	"math/bits"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// Observe runs a command under a trace of its own, and returns what the ledger makes
// of it. The command is made with a context that ends with the trace.
func Observe(ctx context.Context, opts tracer.Options, command func(context.Context) *exec.Cmd) (ledger.Summary, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return ledger.Summary{}, fmt.Errorf("become the command's subreaper: %w", err)
	}
	opts.CommandParent = os.Getpid()
	t, err := tracer.Open(opts)
	if err != nil {
		return ledger.Summary{}, err
	}
	defer t.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := command(ctx)
	if err := cmd.Start(); err != nil {
		return ledger.Summary{}, fmt.Errorf("run %s: %w", cmd.Args[0], err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait(); cancel() }()

	l := ledger.New()
	for event, err := range t.Events(ctx) {
		if err != nil {
			return ledger.Summary{}, err
		}
		if event.Command {
			l.Apply(event)
		}
	}
	if err := <-done; err != nil {
		return ledger.Summary{}, fmt.Errorf("run %s: %w", cmd.Args[0], err)
	}
	return l.Summary(), nil
}

// maxPages bounds the memory that PastAllowance takes: 64 MiB of 4 KiB pages.
const maxPages = 16384

// PastAllowance lets a throwaway user map a few buffers past its allowance, each
// twice, and returns what the ledger makes of it. A user that nobody else is
// takes what the kernel forgets to refund with it when it goes.
func PastAllowance(ctx context.Context, opts tracer.Options) (ledger.Summary, error) {
	settings, err := kernel.ReadSettings()
	if err != nil {
		return ledger.Summary{}, err
	}
	allowance := settings.UserLockLimit()
	if allowance > maxPages {
		return ledger.Summary{}, fmt.Errorf("a user's allowance is %d pages here: too much memory to map just for this", allowance)
	}
	// Two buffers fill the allowance at the least, and three are past it.
	pages := 1 << max(0, bits.Len64(uint64(allowance/2))-1)
	load := workload.PerfBuffers{UID: 0x7fff0000 + os.Getpid()%0xffff, Memlock: 256 << 20, Pages: pages, Max: 5, Again: 1, Quiet: true}
	return Observe(ctx, opts, load.Command)
}

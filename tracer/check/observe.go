// Package check exercises a kernel and says whether its accounting holds.
package check

import (
	"context"
	"fmt"
	"math/bits"
	"os"
	"os/exec"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// Observe runs a command under a trace of its own, and returns what a ledger makes of
// the command's events.
func Observe(ctx context.Context, opts tracer.Options, command func(context.Context) *exec.Cmd) (ledger.Summary, error) {
	s, err := session.Open(ctx, session.Options{Tracer: opts, NoSnapshot: true, Command: command})
	if err != nil {
		return ledger.Summary{}, err
	}
	defer s.Close()
	own := commandLedger{ledger.New()}
	if err := s.Run(ctx, own); err != nil {
		return ledger.Summary{}, fmt.Errorf("run a command under a trace: %w", err)
	}
	return own.Summary(), nil
}

// commandLedger is a sink with a ledger of the traced command's events alone: what others
// do at the same time is no part of the experiment.
type commandLedger struct{ *ledger.Ledger }

// Enter enters the event anew, if it is the command's.
func (c commandLedger) Enter(e *ledger.Entry) error {
	if e.Caller.Command {
		c.Apply(e.Event)
	}
	return nil
}

// Flush does nothing: the summary is asked for at the end.
func (commandLedger) Flush(pipeline.View) error { return nil }

// Close does nothing.
func (commandLedger) Close(pipeline.View, uint64) error { return nil }

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
	if allowance < 0 {
		return ledger.Summary{}, fmt.Errorf("perf_event_mlock_kb is %d, which is no limit: nothing is charged past it", settings.MlockKiB)
	}
	if allowance > maxPages {
		return ledger.Summary{}, fmt.Errorf("a user's allowance is %d pages here: too much memory to map just for this", allowance)
	}
	// Two buffers fill the allowance at the least, and three are past it.
	pages := 1 << max(0, bits.Len64(uint64(allowance/2))-1)
	load := workload.PerfBuffers{UID: 0x7fff0000 + os.Getpid()%0xffff, Memlock: 256 << 20, Pages: pages, Max: 5, Again: 1, Quiet: true}
	return Observe(ctx, opts, load.Command)
}

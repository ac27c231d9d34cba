package checked

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// Here checks the running kernel, whose types may be in one of some files.
func Here(ctx context.Context, opts check.Options, btf []string) (check.Report, error) {
	types, err := check.TypesHere(btf)
	if err != nil {
		return check.Report{}, err
	}
	if types != "" {
		opts.Flags = append([]string{"--btf", types}, opts.Flags...)
	}
	opts.Tracer.BTF = types
	k, err := check.Run(ctx, opts)
	return reportOf(k), err
}

// TellHost has a check in a guest tell the one that booted it how it goes: what runs on one
// stream, and the report, in one line, on the other.
func TellHost(opts *check.Options, out, words io.Writer) {
	opts.Apart = true
	debug.SetGCPercent(400) // the guest has memory, and nothing else to do with it
	opts.Progress = func(name string, n, of int) { fmt.Fprintf(words, "progress: %d/%d %s\n", n, of, name) }
	// A host that does not get it knows.
	opts.Judged = func(k check.Kernel) { json.NewEncoder(out).Encode(reportOf(k)) }
}

// reportOf is a report on one kernel.
func reportOf(k check.Kernel) check.Report {
	return check.Report{Version: check.Version, Kernels: []check.Kernel{k}}
}

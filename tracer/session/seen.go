package session

import (
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// seen is the sink that remembers for this boot how a trace saw the kernel account.
type seen struct{}

// Enter does nothing: the ledger keeps what it saw.
func (seen) Enter(*ledger.Entry) error { return nil }

// Flush does nothing.
func (seen) Flush(pipeline.View) error { return nil }

// Close remembers.
func (seen) Close(now pipeline.View, _ uint64) error {
	accounting.Traced(now.Counts().Scheme)
	return nil
}

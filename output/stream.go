package output

import (
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// Writer writes rows. They are out when Flush returns, or when there are many. Close
// ends the output; it does not close what is below.
type Writer interface {
	Write(r *row.Row) error
	Flush() error
	Close(summary *row.Row, s ledger.Summary) error
}

// Stream is the sink that shows a trace through a writer, and ends it with a summary.
type Stream struct {
	writer  Writer
	filter  *row.Filter
	row     row.Row
	last    row.Row // what the summary says of the last row
	summary ledger.Summary
}

// NewStream shows what passes the filter.
func NewStream(w Writer, filter *row.Filter) *Stream { return &Stream{writer: w, filter: filter} }

// Enter writes an entry, if it is one to show.
func (s *Stream) Enter(e *ledger.Entry) error {
	if !s.filter.Shows(e) {
		return nil
	}
	s.row = row.Of(e)
	s.row.Note = Explain(&s.row)
	s.last.TimeNS, s.last.PageSize, s.last.Buffer.Limits.OnlineCPUs = e.TimeNS, e.PageSize, e.Buffer.Limits.OnlineCPUs
	return s.writer.Write(&s.row)
}

// Flush has the writer show what it was given.
func (s *Stream) Flush(pipeline.View) error { return s.writer.Flush() }

// Close writes the summary.
func (s *Stream) Close(now pipeline.View, lost uint64) error {
	s.summary = now.Summary()
	return s.writer.Close(SummaryRow(&s.last, s.summary, lost), s.summary)
}

// Summary is that of the trace, once it is closed.
func (s *Stream) Summary() ledger.Summary { return s.summary }

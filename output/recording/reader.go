package recording

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Reader reads a recording back.
type Reader struct {
	in   io.Reader
	lost uint64
}

// NewReader returns a reader of what was recorded.
func NewReader(in io.Reader) *Reader { return &Reader{in: in} }

// Lost is how many events the recording had lost, as far as it was read.
func (r *Reader) Lost() uint64 { return r.lost }

// Events yields the recorded events. An error names the line.
func (r *Reader) Events() iter.Seq2[ledger.Event, error] {
	return func(yield func(ledger.Event, error) bool) {
		columns := row.Columns()
		scanner := bufio.NewScanner(r.in)
		scanner.Buffer(make([]byte, 0, 64<<10), 1<<20)
		for n := 1; scanner.Scan(); n++ {
			line := bytes.TrimSpace(scanner.Bytes())
			if len(line) == 0 {
				continue
			}
			row, err := parse(columns, line)
			if err != nil {
				yield(ledger.Event{}, fmt.Errorf("line %d: %w", n, err))
				return
			}
			r.lost = row.Lost
			if row.Summary {
				continue
			}
			if !yield(row.Entry.Event, nil) {
				return
			}
		}
		if err := scanner.Err(); err != nil {
			yield(ledger.Event{}, err)
		}
	}
}

func parse(columns []row.Column, line []byte) (*row.Row, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	version, err := versionOf(fields)
	if err != nil {
		return nil, err
	}
	r := &row.Row{}
	for i := range columns {
		c := &columns[i]
		name := c.Name
		if version == version1 && c.Former != "" {
			name = c.Former
		}
		value, ok := fields[name]
		if !ok {
			continue
		}
		if err := c.Parse(r, value); err != nil {
			return nil, fmt.Errorf("field %q: %w", name, err)
		}
	}
	for _, name := range required(version, r.Subsystem()) {
		if _, ok := fields[name]; !ok {
			return nil, fmt.Errorf("no field %q: not a recording of pinwatch", name)
		}
	}
	return r, r.Complete()
}

func versionOf(fields map[string]json.RawMessage) (int, error) {
	text, ok := fields["v"]
	if !ok {
		return 0, fmt.Errorf(`no field "v": not a recording of pinwatch`)
	}
	var version int
	if err := json.Unmarshal(text, &version); err != nil || version < version1 || version > newest {
		return 0, fmt.Errorf(`field "v": version %s: this pinwatch reads versions %d to %d`, text, version1, newest)
	}
	return version, nil
}

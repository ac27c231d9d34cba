package recording

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Reader reads a recording back, whether it is compressed or not.
type Reader struct {
	in     io.Reader
	header *Header
	lost   uint64
	torn   string
	ended  bool   // it has a summary
	lastNS uint64 // what to read at the most; 0: all
	cut    bool   // there was more
}

// Source is what was recorded: a file, or one trace of several files.
type Source interface {
	Events() iter.Seq2[ledger.Event, error]
	Lost() uint64
	// Words say of what machine it is, and what of its end was left out.
	Words() []string
}

// NewReader returns a reader of what was recorded.
func NewReader(in io.Reader) *Reader { return &Reader{in: in} }

// EndAt ends the recording at a time; zero: at its end.
func (r *Reader) EndAt(t time.Time) {
	if !t.IsZero() {
		r.lastNS = uint64(max(1, t.UnixNano()))
	}
}

// Lost is how many events the recording had lost, as far as it was read.
func (r *Reader) Lost() uint64 { return r.lost }

// Header is what the recording says of itself, as soon as it was read; nil: nothing.
func (r *Reader) Header() *Header { return r.header }

// Torn says what of a recording's end was left out, because whoever wrote it came to no end of
// its own: all before that is whole. "": nothing.
func (r *Reader) Torn() string { return r.torn }

// Words say of what machine the recording is, and what of its end was left out.
func (r *Reader) Words() (words []string) {
	if r.header != nil {
		words = append(words, r.header.String())
	}
	if r.torn != "" {
		words = append(words, "the recording is torn: "+r.torn)
	}
	return words
}

// Events yields the recorded events. An error names the line. A last line that is not whole is
// none (see Torn).
func (r *Reader) Events() iter.Seq2[ledger.Event, error] {
	return func(yield func(ledger.Event, error) bool) {
		in, err := expand(r.in)
		if err != nil {
			yield(ledger.Event{}, err)
			return
		}
		columns := row.Columns()
		scanner := bufio.NewScanner(in)
		scanner.Buffer(make([]byte, 0, 64<<10), 1<<20)
		whole := true // the line has its end
		scanner.Split(func(data []byte, atEOF bool) (int, []byte, error) {
			whole = bytes.IndexByte(data, '\n') >= 0
			return bufio.ScanLines(data, atEOF)
		})
		events := 0
		for n := 1; scanner.Scan(); n++ {
			line := bytes.TrimSpace(scanner.Bytes())
			if len(line) == 0 {
				continue
			}
			if n == 1 {
				if r.header = parseHeader(line); r.header != nil {
					continue
				}
			}
			row, err := parse(columns, line)
			if err != nil && !whole && (events > 0 || r.header != nil) {
				r.torn = fmt.Sprintf("its last %d bytes are no whole line", len(scanner.Bytes()))
				break
			}
			if err != nil {
				yield(ledger.Event{}, fmt.Errorf("line %d: %w", n, err))
				return
			}
			if r.header != nil {
				row.Lost -= min(row.Lost, r.header.Lost)
			}
			if r.cut = r.lastNS != 0 && row.TimeNS > r.lastNS; r.cut {
				return
			}
			r.lost = row.Lost
			if row.Summary {
				r.ended = true
				continue
			}
			events++
			if !yield(row.Entry.Event, nil) {
				return
			}
		}
		switch err := scanner.Err(); {
		case errors.Is(err, io.ErrUnexpectedEOF) && (events > 0 || r.header != nil):
			r.torn = strings.Trim("it is compressed, and its last block is not whole; "+r.torn, "; ")
		case err != nil:
			yield(ledger.Event{}, err)
		}
		if r.torn != "" {
			r.torn += fmt.Sprintf(": left out, after event %d", events)
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

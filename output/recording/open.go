package recording

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Recorded is what was recorded, to be read as often as wanted: a file, or the directory of an
// agent, which has a trace for each time that nothing is missing in.
type Recorded struct {
	path     string
	from, to time.Time
	in       io.ReadCloser // nil: a directory
	dir      *Directory
	file     *Reader // nil: it was the next one
	reading  Source
	said     int // of its words
	words    []string
}

// Open opens a file, or a directory as OpenDirectory does. "-" is the standard input, which can be
// read once. Of a file, all up to a time is read, for without what came before nobody knows who
// holds what.
func Open(path string, standard io.Reader, from, to time.Time) (*Recorded, error) {
	r := &Recorded{path: path, from: from, to: to}
	info, err := os.Stat(path)
	switch {
	case path == "-":
		r.in = io.NopCloser(standard)
	case err != nil:
		return nil, err
	case !info.IsDir():
		if r.in, err = os.Open(path); err != nil {
			return nil, err
		}
	}
	return r, r.begin()
}

func (r *Recorded) begin() (err error) {
	r.reading, r.said, r.words = nil, 0, nil
	if r.in == nil {
		r.dir, err = OpenDirectory(r.path, r.from, r.to)
		return err
	}
	r.file = NewReader(r.in)
	r.file.EndAt(r.to)
	return nil
}

// Again begins anew.
func (r *Recorded) Again() error {
	if file, ok := r.in.(io.Seeker); ok {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
	} else if r.in != nil {
		return fmt.Errorf("it is the standard input")
	}
	return r.begin()
}

// Next is the next trace, to be read to its end before the one after it; nil: there is none. gap
// says what is missing between it and the one before; "": nothing.
func (r *Recorded) Next() (trace Source, gap string) {
	r.told()
	switch {
	case r.file != nil:
		trace, r.file = r.file, nil
	case r.in == nil:
		next, said := r.dir.Next()
		if r.words = append(r.words, said...); next != nil {
			trace, gap = next, next.gap
		}
	}
	r.reading, r.said = trace, 0
	return trace, gap
}

// told keeps what there is to say by now of the trace that is read.
func (r *Recorded) told() {
	if r.reading != nil {
		all := r.reading.Words()
		r.words = append(r.words, all[r.said:]...)
		r.said = len(all)
	}
}

// Tell writes what there is to say of what was read since it was told last: of what machine it is,
// and what is missing.
func (r *Recorded) Tell(w io.Writer) {
	r.told()
	if len(r.words) > 0 {
		fmt.Fprintf(w, "pinwatch: %s\n", strings.Join(r.words, "\npinwatch: "))
	}
	r.words = nil
}

// Close closes it.
func (r *Recorded) Close() error {
	if r.in == nil {
		return nil
	}
	return r.in.Close()
}

package recording

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Directory is what an agent has recorded: one trace after the other, each in files that
// follow one another. Only what follows without a gap is one trace for a ledger.
type Directory struct {
	parts   []part
	to      time.Time // zero: there is no end
	writing string    // the file that an agent writes; "": none does
	skipped []skipped // files that nothing is read of
	said    bool      // that they are
	before  *Stretch
}

type skipped struct {
	PartFile
	why error
}

type part struct {
	PartFile
	*Header
}

// ErrNothing is that of a time of which nothing is recorded.
var ErrNothing = errors.New("no recording of an agent of that time")

// OpenDirectory finds what is recorded from one time to another one; zero: from the first event,
// to the last one. It begins with the file that the time is in, so with what came before it
// there.
func OpenDirectory(dir string, from, to time.Time) (*Directory, error) {
	running := locked(dir)
	files, err := PartFiles(dir)
	if err != nil {
		return nil, err
	}
	d := &Directory{to: to}
	if running && len(files) > 0 {
		d.writing = files[len(files)-1].Path
	}
	for _, file := range files {
		h, err := readHeader(file.Path)
		if err != nil {
			d.skipped = append(d.skipped, skipped{file, err})
			continue
		}
		if !from.IsZero() && h.TimeNS <= from.UnixNano() {
			d.parts = d.parts[:0] // the time is in this one, or later
		}
		if to.IsZero() || h.TimeNS <= to.UnixNano() {
			d.parts = append(d.parts, part{file, h})
		}
	}
	if len(d.parts) == 0 {
		return nil, fmt.Errorf("%s: %w (of %s)", dir, ErrNothing, format.Count(len(files), "file"))
	}
	return d, nil
}

// locked reports whether an agent has a directory, which is locked then.
func locked(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close() // and with it goes a lock
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Next is the next trace, to be read to its end before the one after it; nil: there is none. said
// is what is missing before it.
func (d *Directory) Next() (next *Stretch, said []string) {
	if !d.said {
		for _, file := range d.skipped {
			said = append(said, fmt.Sprintf("%s holds nothing: %v", filepath.Base(file.Path), file.why))
		}
		d.said = true
	}
	if len(d.parts) == 0 {
		return nil, said
	}
	first := d.parts[0]
	next = &Stretch{from: d}
	switch {
	case d.before != nil:
		next.gap = fmt.Sprintf("gap: nothing is recorded between %s (the last that is there) and %s: %s", clockOf(d.before.lastNS), clockOf(first.TimeNS), d.before.why(first))
		said = append(said, next.gap)
	case first.Part > 0:
		said = append(said, fmt.Sprintf("begins at %s, in the midst of a trace, with what was mapped then", clockOf(first.TimeNS)))
	}
	d.before = next
	return next, said
}

// why says why nothing is recorded between a trace and the next part, as far as that was seen.
func (s *Stretch) why(next part) string {
	unread := s.unread(next)
	switch {
	case s.ended:
		return "the agent was stopped, and started again"
	case s.header.BootID != next.BootID && s.header.BootID != "" && next.BootID != "":
		return "the machine was booted again"
	case s.header.Run == next.Run && next.Unrecorded > 0:
		return format.Count(next.Unrecorded, "event") + " could not be written"
	case unread != "" && s.header.Run == next.Run:
		return unread
	case unread != "":
		return "the agent was started again, and how it had ended is not known: " + unread
	case s.header.Run == next.Run && s.torn != "":
		return "a part of a file is missing"
	}
	return "the agent did not end, and was started again"
}

// unread says what there is, or was, between what was read and the next part; "": nothing.
func (s *Stretch) unread(next part) string {
	if s.damaged {
		return "a part of " + filepath.Base(s.last.Path) + " could not be read"
	}
	for _, file := range s.from.skipped {
		if file.Number > s.last.Number && file.Number < next.Number {
			return filepath.Base(file.Path) + " could not be read"
		}
	}
	if next.Number != s.last.Number+1 {
		return "files are missing"
	}
	return ""
}

// clockOf writes a time as tables do, and the day.
func clockOf[T int64 | uint64](ns T) string {
	return time.Unix(0, int64(ns)).Format("2006-01-02 15:04:05")
}

// Stretch is a trace without a gap, in one file or more.
type Stretch struct {
	from    *Directory
	gap     string  // before it; "": none
	header  *Header // of its last file, as far as it was read
	last    PartFile
	first   *Header
	lost    uint64
	torn    string
	damaged bool // what follows in its last file could not be read
	writing bool // it is torn where an agent writes on
	ended   bool
	lastNS  uint64 // of the last event
}

// Lost is how many events it had lost, as far as it was read.
func (s *Stretch) Lost() uint64 { return s.lost }

// Words say of what machine it is, and what of its end was left out.
func (s *Stretch) Words() (words []string) {
	if s.first != nil {
		words = append(words, s.first.String())
	}
	if s.torn != "" {
		what := "its end is torn"
		if s.writing {
			what = "an agent is writing on"
		}
		words = append(words, what+": "+s.torn)
	}
	return words
}

// Events yields the events, up to the time that is wanted.
func (s *Stretch) Events() iter.Seq2[ledger.Event, error] {
	return func(yield func(ledger.Event, error) bool) {
		for len(s.from.parts) > 0 {
			next := s.from.parts[0]
			if s.first != nil && (next.Run != s.header.Run || next.Part != s.header.Part+1 || next.Unrecorded > 0 || s.torn != "") {
				return
			}
			s.from.parts = s.from.parts[1:]
			if s.first == nil {
				s.first = next.Header
				s.lastNS = uint64(next.TimeNS)
			}
			s.header, s.last = next.Header, next.PartFile
			if !s.read(next, yield) {
				s.from.parts = nil
				return
			}
		}
	}
}

// read yields a file's events, and reports whether to go on.
func (s *Stretch) read(p part, yield func(ledger.Event, error) bool) bool {
	file, err := os.Open(p.Path)
	if err != nil {
		yield(ledger.Event{}, err)
		return false
	}
	defer file.Close()
	r := NewReader(file)
	r.EndAt(s.from.to)
	before := p.Lost - min(p.Lost, s.first.Lost)
	for event, err := range r.Events() {
		if err != nil { // damage: what follows it is a trace of its own
			s.torn, s.damaged = fmt.Sprintf("%s: %v", filepath.Base(p.Path), err), true
			return true
		}
		if event.Op == ledger.AlreadyMapped && p.Header != s.first {
			continue // the files before it have told
		}
		event.Lost += before
		s.lost, s.lastNS = event.Lost, max(s.lastNS, event.TimeNS)
		if !yield(event, nil) {
			return false
		}
	}
	if r.cut {
		return false
	}
	s.lost, s.ended = max(s.lost, r.Lost()+before), r.ended
	if r.Torn() != "" {
		s.torn, s.writing = filepath.Base(p.Path)+": "+r.Torn(), p.Path == s.from.writing
	}
	return true
}

// Package agent is what a process needs that watches a machine for as long as it runs: a flight
// recorder, which keeps the newest part of a trace on disk, and a log of what went wrong.
package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// RingOptions say where to keep a trace, and how much of it.
type RingOptions struct {
	Dir      string
	MaxBytes int64         // of all files together
	MaxAge   time.Duration // of what a file ends with; 0: any
	// Header describes the machine at the time of the call.
	Header func() (*recording.Header, error)
	Log    *slog.Logger
	Now    func() time.Time
	// Ahead is how far the wall clock is ahead of the times of events by now: it goes on while
	// the machine sleeps, and can be set. nil: never.
	Ahead func() time.Duration
}

// LeastBytes is the smallest ring: files of less than a few blocks would not be compressed.
const LeastBytes = 1 << 20

const (
	// The parts of a ring: with fewer much is lost when the oldest goes, and each begins
	// with all that is mapped.
	partsOfRing = 16
	mostParts   = 1024 // an agent that is started again and again makes small ones
	mostPartAge = time.Hour
	leastAge    = time.Minute
	retryAfter  = time.Second
	leastAhead  = 100 * time.Millisecond // less is how exact the two clocks are read together
)

// Ring is the sink that keeps the newest part of a trace: a directory of files, each of which
// can be replayed alone. No error of the disk ends a trace: it is logged, and what could not be
// written is counted.
type Ring struct {
	RingOptions
	run  string
	lock *os.File // the directory
	view pipeline.View

	mu        sync.Mutex
	encoder   *zstd.Encoder
	next      uint64 // number of the next file
	part      int    // its place in the run
	file      *os.File
	written   counter // of the file, compressed
	block     int64   // of that, what it began with
	lines     *recording.Writer
	begun     time.Time
	ahead     time.Duration // that is in the times that are written
	dirty     bool
	unflushed uint64 // events that are not on their way to the disk yet
	full      []*os.File
	failing   error // nil: all is written
	tried     time.Time
	pruned    time.Time
	missed    uint64 // since the last file
	missedAll uint64
	last      row.Row
}

// counter counts the bytes that are passed on.
type counter struct {
	to    *os.File
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.bytes += int64(n)
	return n, err
}

// OpenRing takes a directory, which is made if it is not there. No second agent gets it.
func OpenRing(opts RingOptions) (_ *Ring, err error) {
	if opts.MaxBytes < LeastBytes {
		return nil, fmt.Errorf("a ring of %d bytes: want at least %d", opts.MaxBytes, LeastBytes)
	}
	if err := os.MkdirAll(opts.Dir, 0o750); err != nil {
		return nil, err
	}
	r := &Ring{RingOptions: opts}
	if r.lock, err = os.Open(opts.Dir); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(r.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		r.lock.Close()
		return nil, fmt.Errorf("%s: another agent records there: %w", opts.Dir, err)
	}
	var id [8]byte
	rand.Read(id[:]) // never fails
	r.run = hex.EncodeToString(id[:])
	// One block at a time, and a window that also finds what was flushed before.
	r.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err == nil {
		r.prune()
		if err = r.open(); noRoom(err) {
			r.fail(err)
			err = nil
		}
	}
	if err != nil {
		r.lock.Close()
		return nil, err
	}
	return r, nil
}

// noRoom reports whether an error may be gone by itself.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Begin has the ring know what is mapped, at any time.
func (r *Ring) Begin(now pipeline.View) { r.view = now }

// Enter keeps an entry.
func (r *Ring) Enter(e *ledger.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		r.reopen()
	} else if ahead := r.clock(); ahead-r.ahead >= leastAhead {
		r.ahead = ahead // the machine has slept
	} else if r.ahead-ahead >= leastAhead {
		r.rotate() // no time goes back within a file
	}
	if r.file == nil {
		r.miss(1)
		return nil
	}
	one := row.Of(e)
	one.Note = output.Explain(&one)
	r.onClock(&one)
	r.last.TimeNS, r.last.PageSize, r.last.Buffer.Limits.OnlineCPUs = one.TimeNS, e.PageSize, e.Buffer.Limits.OnlineCPUs
	r.unflushed++
	if err := r.lines.Write(&one); err != nil {
		r.fail(err)
		return nil
	}
	r.dirty = true
	if r.written.bytes-r.block >= r.partBytes() || r.Now().Sub(r.begun) >= r.partAge() {
		r.rotate()
	}
	return nil
}

// clock is how far the wall clock is ahead.
func (r *Ring) clock() time.Duration {
	if r.Ahead == nil {
		return 0
	}
	return r.Ahead()
}

// onClock gives a row the time of the wall clock. What reads a recording later knows no other.
func (r *Ring) onClock(one *row.Row) { one.TimeNS = uint64(int64(one.TimeNS) + int64(r.ahead)) }

// partBytes is how large a file gets, without what it begins with.
func (r *Ring) partBytes() int64 { return max(r.MaxBytes/partsOfRing, r.block) }

func (r *Ring) partAge() time.Duration {
	if r.MaxAge == 0 {
		return mostPartAge
	}
	return min(mostPartAge, max(leastAge, r.MaxAge/100))
}

// Flush hands over what was entered.
func (r *Ring) Flush(pipeline.View) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		if err := r.lines.Flush(); err != nil {
			r.fail(err)
		}
	}
	return nil
}

// Tick has on the disk what was entered until now. It is called every second, from any
// goroutine.
func (r *Ring) Tick() {
	r.mu.Lock()
	full, file := r.full, r.file
	r.full = nil
	if r.file != nil && r.dirty {
		r.push()
		if r.file == nil {
			file = nil
		}
	} else {
		file = nil
	}
	if r.Now().Sub(r.pruned) >= leastAge {
		r.prune()
	}
	r.mu.Unlock()
	// Not while a trace waits: this can take long.
	for _, one := range full {
		if err := errors.Join(one.Sync(), one.Close()); err != nil {
			r.Log.Error("a file of the recording may not be whole", "file", one.Name(), "error", err)
		}
	}
	if file == nil {
		return
	}
	if err := file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.file == file {
			r.fail(err)
		}
	}
}

// push hands all over to the kernel.
func (r *Ring) push() {
	err := r.lines.Flush()
	if err == nil {
		err = r.encoder.Flush()
	}
	if err != nil {
		r.fail(err)
		return
	}
	r.dirty, r.unflushed = false, 0
}

// open begins a file, with what is mapped. With a nil error it can be written to.
func (r *Ring) open() error {
	r.tried = r.Now()
	if err := r.number(); err != nil {
		return err
	}
	header, err := r.Header()
	if err != nil {
		return err
	}
	header.Clock = "wall clock: CLOCK_MONOTONIC as Unix time, put right as it was written"
	header.Run, header.Part, header.Unrecorded = r.run, r.part, r.missed
	var live []ledger.Entry
	if r.view != nil {
		live, header.Lost = r.view.Live(), r.view.Counts().Lost
	}
	name := filepath.Join(r.Dir, recording.PartName(r.next, r.tried))
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	r.ahead = r.clock()
	r.written = counter{to: file}
	r.encoder.Reset(&r.written)
	r.lines = recording.NewWriter(r.encoder)
	if err := r.beginWith(header, live); err != nil {
		return errors.Join(err, file.Close(), os.Remove(name))
	}
	r.file, r.begun, r.block, r.dirty, r.unflushed = file, r.tried, r.written.bytes, false, 0
	r.next, r.part, r.missed = r.next+1, r.part+1, 0
	return nil
}

// beginWith writes what a file begins with, for the disk.
func (r *Ring) beginWith(header *recording.Header, live []ledger.Entry) error {
	if err := header.Write(r.encoder); err != nil {
		return err
	}
	for i := range live {
		one := row.Of(&live[i])
		r.onClock(&one)
		if err := r.lines.Write(&one); err != nil {
			return err
		}
	}
	if err := errors.Join(r.lines.Flush(), r.encoder.Flush()); err != nil {
		return err
	}
	// The name too must be there after a power cut.
	return errors.Join(r.written.to.Sync(), r.lock.Sync())
}

// number finds the next file's number, once.
func (r *Ring) number() error {
	if r.next > 0 {
		return nil
	}
	files, err := recording.PartFiles(r.Dir)
	if err != nil {
		return err
	}
	r.next = 1
	if len(files) > 0 {
		r.next = files[len(files)-1].Number + 1
	}
	return nil
}

// rotate goes on in a new file, and drops the oldest.
func (r *Ring) rotate() {
	if !r.finish() {
		return
	}
	r.prune()
	if err := r.open(); err != nil {
		r.fail(err)
	}
}

// finish ends the file. What is left to do with it takes long, and is Tick's.
func (r *Ring) finish() bool {
	if err := errors.Join(r.lines.Flush(), r.encoder.Close()); err != nil {
		r.fail(err)
		return false
	}
	r.full = append(r.full, r.file)
	r.file, r.dirty, r.unflushed = nil, false, 0
	return true
}

// prune drops the oldest files that are too much or too old, and leaves room for the one that
// is written.
func (r *Ring) prune() {
	r.pruned = r.Now()
	files, err := recording.PartFiles(r.Dir)
	if err != nil {
		r.Log.Error("old recordings cannot be listed", "error", err)
		return
	}
	var all int64
	for _, file := range files {
		all += file.Size
	}
	// What will still come to the file that is written, and to the next one if there is none.
	room := r.MaxBytes - r.partBytes() - r.block
	if r.file != nil && len(files) > 0 {
		files = files[:len(files)-1]
		room += r.written.bytes
	}
	for i, file := range files {
		old := r.MaxAge > 0 && r.pruned.Sub(file.Changed) > r.MaxAge
		if all <= room && !old && len(files)-i < mostParts {
			continue
		}
		if err := os.Remove(file.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.Log.Error("an old recording cannot be removed", "file", file.Path, "error", err)
			continue
		}
		all -= file.Size
	}
}

// fail ends a file that cannot be written. The trace goes on.
func (r *Ring) fail(err error) {
	if until := "a file can be written again"; r.failing == nil || format.Cause(err) != format.Cause(r.failing) { // each cause once
		if noRoom(err) {
			until = "there is room"
		}
		r.Log.Error("not recording: events are not written until "+until, "dir", r.Dir, "error", err)
	}
	r.failing, r.tried = err, r.Now()
	r.miss(r.unflushed)
	r.unflushed, r.dirty = 0, false
	if r.file != nil {
		r.file.Close() // its error is the same
		r.file = nil
	}
}

func (r *Ring) miss(events uint64) {
	r.missed += events
	r.missedAll += events
}

// reopen tries to go on.
func (r *Ring) reopen() {
	if r.Now().Sub(r.tried) < retryAfter {
		return
	}
	missed := r.missed
	r.prune()
	if err := r.open(); err != nil {
		r.fail(err)
		return
	}
	r.failing = nil
	r.Log.Info("recording again", "dir", r.Dir, "unrecorded_events", missed)
}

// Close ends the recording with a summary.
func (r *Ring) Close(now pipeline.View, lost uint64) error {
	r.mu.Lock()
	if r.file != nil {
		s := now.Summary()
		if err := r.lines.Close(output.SummaryRow(&r.last, s, lost), s); err != nil {
			r.fail(err)
		} else {
			r.finish()
		}
	}
	r.mu.Unlock()
	r.Tick()
	return r.lock.Close()
}

// Unrecorded is how many events could not be written, and why that is so now; nil: it is not.
func (r *Ring) Unrecorded() (events uint64, now error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.missedAll, r.failing
}

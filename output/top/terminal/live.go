package terminal

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Live is the running kernel as a source. Every part may be nil: what cannot be
// had is told on the screen.
type Live struct {
	Trace    Trace
	Untraced error // why there is no Trace
	Snapshot func(context.Context) (*snapshot.Snapshot, error)
	Objects  func(context.Context) ([]top.Object, error)
	// Container names the container of a cgroup, by its path; "": none.
	Container func(path string) string
	Interval  time.Duration
}

// Trace is an open trace.
type Trace interface {
	// Run feeds sinks until ctx ends.
	Run(ctx context.Context, sinks ...pipeline.Sink) error
	Losses() tracer.Losses
	Degraded() []string
}

// Run brings news until ctx ends.
func (l *Live) Run(ctx context.Context, orders <-chan top.Action, send func(tea.Msg)) error {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{Live: l, send: send, names: map[uint32]string{}, usage: newUsage()}
	f.degraded()
	var running sync.WaitGroup
	errs := make(chan error, 2)
	if l.Trace != nil {
		entered := make(chan entered, flushCount)
		running.Go(func() { errs <- guarded(func() error { defer close(entered); return f.trace(ctx, entered) }) })
		running.Go(func() { errs <- guarded(func() error { f.deliver(entered); return nil }) })
	}
	err := guarded(func() error { return f.look(ctx, orders, errs) })
	cancel()
	running.Wait()
	return err
}

// feed is a Live at work.
type feed struct {
	*Live
	send  func(tea.Msg)
	names map[uint32]string // of users that were looked up
	usage *usage
}

// entered are ledger entries, and the counts after them.
type entered struct {
	rows   []*row.Row
	counts ledger.Summary
}

// degraded tells what was known to be missing from the start.
func (f *feed) degraded() {
	if f.Trace == nil {
		text := "no new events are seen, only what exists"
		if f.Untraced != nil {
			text += ": " + f.Untraced.Error()
		}
		f.send(top.Trouble{Topic: "trace", Texts: []string{text}})
		return
	}
	f.send(top.Trouble{Topic: "trace", Texts: f.Trace.Degraded()})
}

// trace has the session feed the view.
func (f *feed) trace(ctx context.Context, out chan<- entered) error {
	if err := f.Trace.Run(ctx, &entries{out: out}); err != nil {
		f.send(top.Trouble{Topic: "trace", Texts: []string{"no more events are seen: " + err.Error()}})
	}
	return nil
}

// entries is the sink that hands rows to the view, and the counts with the last of those
// that are there.
type entries struct {
	out  chan<- entered
	rows []*row.Row
}

// Enter keeps an entry until no more wait.
func (s *entries) Enter(e *ledger.Entry) error {
	if e.Kind != ledger.Preexisting && e.Kind != ledger.Closing { // the snapshots tell of the first
		r := row.Of(e)
		s.rows = append(s.rows, &r)
	}
	return nil
}

// Flush hands over what was entered.
func (s *entries) Flush(now pipeline.View) error {
	if len(s.rows) > 0 {
		s.out <- entered{s.rows, now.Counts()}
		s.rows = nil
	}
	return nil
}

// Close hands over the rest.
func (s *entries) Close(now pipeline.View, _ uint64) error { return s.Flush(now) }

// deliver passes entries on, several at a time.
func (f *feed) deliver(in <-chan entered) {
	var batch top.Entries
	flush := func() {
		if len(batch.Rows) > 0 {
			f.send(batch)
		}
		batch = top.Entries{}
	}
	tick := time.NewTicker(flushAfter)
	defer tick.Stop()
	for {
		select {
		case e, ok := <-in:
			if !ok {
				flush()
				return
			}
			batch.Rows, batch.Counts = append(batch.Rows, e.rows...), e.counts
			if len(batch.Rows) >= flushCount {
				flush()
			}
		case <-tick.C:
			flush()
		}
	}
}

// look takes a snapshot at every interval, and ends the interval. An error is
// one of the program itself.
func (f *feed) look(ctx context.Context, orders <-chan top.Action, errs <-chan error) error {
	interval := time.NewTicker(f.Interval)
	defer interval.Stop()
	for first := true; ; first = false {
		if err := f.snapshot(ctx); err != nil && first && f.Trace == nil {
			return fmt.Errorf("there is nothing to show: %w; nor are there new events: %w", err, f.Untraced)
		}
		f.objects(ctx)
		if f.Trace != nil {
			f.send(top.Entries{Lost: f.Trace.Losses().Total()})
		}
		f.send(top.Tick{NowNS: uint64(time.Now().UnixNano()), Usage: f.usage.read()})
	waiting:
		for {
			select {
			case <-ctx.Done():
				return nil
			case err := <-errs:
				if err != nil {
					return err
				}
			case order := <-orders:
				if order.Interval > 0 {
					interval.Reset(order.Interval)
				}
				if order.Resume {
					break waiting
				}
			case <-interval.C:
				break waiting
			}
		}
	}
}

func (f *feed) snapshot(ctx context.Context) error {
	if f.Snapshot == nil {
		return errors.New("no snapshot is to be had")
	}
	s, err := f.Live.Snapshot(ctx)
	if err != nil {
		f.send(top.Trouble{Topic: "snapshot", Texts: []string{"what existed before is not seen: " + err.Error()}})
		return err
	}
	f.send(top.Trouble{Topic: "snapshot", Texts: s.Degraded})
	f.send(top.Snapshot{Snapshot: s, Names: f.userNames(s), Containers: f.containers(s)})
	return nil
}

// userNames are the names of a snapshot's users. Each is looked up once.
func (f *feed) userNames(s *snapshot.Snapshot) map[uint32]string {
	names := make(map[uint32]string, len(s.Users))
	for _, u := range s.Users {
		name, known := f.names[u.UID]
		if !known {
			if entry, err := user.LookupId(strconv.FormatUint(uint64(u.UID), 10)); err == nil {
				name = entry.Username
			}
			f.names[u.UID] = name
		}
		names[u.UID] = name
	}
	return names
}

func (f *feed) containers(s *snapshot.Snapshot) map[string]string {
	if f.Container == nil {
		return nil
	}
	names := map[string]string{}
	for i := range s.Processes {
		path := s.Processes[i].CgroupPath
		if _, known := names[path]; !known {
			names[path] = f.Container(path)
		}
	}
	return names
}

func (f *feed) objects(ctx context.Context) {
	if f.Objects == nil {
		return
	}
	objects, err := f.Live.Objects(ctx)
	if err != nil {
		f.send(top.Trouble{Topic: "BPF objects", Texts: []string{"not seen: " + err.Error()}})
		return
	}
	f.send(top.Trouble{Topic: "BPF objects"})
	f.send(top.Objects(objects))
}

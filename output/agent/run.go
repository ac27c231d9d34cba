package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pinwatch/pinwatch/output/metrics"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/transport"
	"golang.org/x/sys/unix"
)

// Options say what an agent does with its trace.
type Options struct {
	Dir       string // of the flight recorder; "": there is none
	MaxBytes  int64
	MaxAge    time.Duration
	Anonymous bool   // leave out the name of the host
	LogFormat string // one of LogFormats
	Listen    string // address to answer for metrics at; "": none
	Seccomp   string // one of SeccompModes
	Version   string
}

// What log lines are.
const (
	Logfmt = "logfmt"
	JSON   = "json"
)

// LogFormats are their names.
func LogFormats() []string { return []string{Logfmt, JSON} }

// Run traces until ctx ends.
func Run(ctx context.Context, trace session.Options, o *Options, words io.Writer) error {
	log := slog.New(slog.NewTextHandler(words, nil))
	if o.LogFormat == JSON {
		log = slog.New(slog.NewJSONHandler(words, nil))
	}
	s, err := session.Open(ctx, trace)
	if err != nil {
		return cannotTrace(ctx, err)
	}
	defer s.Close()
	ahead := sinceThen()
	lines := NewLog(log, time.Now)
	sinks, ticks := []pipeline.Sink{lines}, []func(){lines.Tick}
	from := metrics.Source{Version: o.Version, Kernel: kernel.Release(), Settings: kernel.ReadSettings, Lost: func() uint64 { return s.Losses().Total() }, LeftOut: lines.LeftOut, Ahead: ahead}
	if o.Dir != "" {
		ring, err := OpenRing(RingOptions{Dir: o.Dir, MaxBytes: o.MaxBytes, MaxAge: o.MaxAge, Log: log, Now: time.Now, Ahead: ahead,
			Header: func() (*recording.Header, error) { return recording.NewHeader(o.Version, o.Anonymous) }})
		if err != nil {
			return err
		}
		sinks, ticks = append(sinks, ring), append(ticks, ring.Tick)
		from.Unrecorded = ring.Unrecorded
	}
	if o.Listen != "" {
		collector := metrics.New(from)
		server, err := metrics.Serve(o.Listen, collector)
		if err != nil {
			return fmt.Errorf("answer for metrics: %w", err)
		}
		defer server.Close()
		sinks = append(sinks, collector)
	}
	log.Info("watching "+s.Attached(), "version", o.Version)
	if left, err := giveUp(); err != nil {
		log.Warn("privileges are kept that are not needed any more", "error", err)
	} else {
		log.Info("privileges are given up", "left", fmt.Sprint(left))
	}
	if o.Seccomp != SeccompOff {
		done := map[string]string{SeccompRefuse: "system calls are confined", SeccompLog: "system calls are not confined, and those that would be refused are logged"}
		if allowing, err := confine(o.Seccomp); err != nil {
			log.Warn("system calls are not confined", "error", err)
		} else {
			log.Info(done[o.Seccomp], "others", o.Seccomp, "allowed", allowing)
		}
	}
	for _, what := range s.Degraded() {
		log.Warn("degraded", "what", what)
	}
	ticking, stop := context.WithCancel(ctx)
	wait := every(ticking, ticks...)
	notify(log, "READY=1")
	err = s.Run(ctx, sinks...)
	stop()
	wait()
	notify(log, "STOPPING=1")
	if losses := s.Losses(); losses.Total() > 0 {
		log.Warn("lost events", "what", losses.String())
	}
	return err
}

// CannotTrace says that this machine cannot be traced with what the agent may do here:
// to start it again is of no use.
type CannotTrace struct{ Err error }

func (e *CannotTrace) Error() string { return e.Err.Error() }
func (e *CannotTrace) Unwrap() error { return e.Err }

// cannotTrace is an error of the trace's start: but for want of what others may give back, it
// stays.
func cannotTrace(ctx context.Context, err error) error {
	for _, passing := range []unix.Errno{unix.ENOMEM, unix.EAGAIN, unix.EBUSY, unix.EMFILE, unix.ENFILE, unix.ENOSPC} {
		if errors.Is(err, passing) {
			return err
		}
	}
	var limited transport.Limited
	if ctx.Err() != nil || errors.As(err, &limited) {
		return err
	}
	return &CannotTrace{err}
}

// sinceThen returns how far the wall clock has got ahead, since then, of the one that does not run
// while the machine sleeps, and is never set.
func sinceThen() (ahead func() time.Duration) {
	then := time.Now() // by both clocks
	return func() time.Duration {
		now := time.Now()
		return now.Round(0).Sub(then.Round(0)) - now.Sub(then)
	}
}

// every calls functions each second until ctx ends; wait waits for the last call.
func every(ctx context.Context, do ...func()) (wait func()) {
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, one := range do {
				one()
			}
		}
	})
	return running.Wait
}

// notify tells the service manager that started this process how it is, if one did:
// sd_notify(3) is one datagram.
func notify(log *slog.Logger, state string) {
	to := os.Getenv("NOTIFY_SOCKET")
	if to == "" {
		return
	}
	if to[0] == '@' { // the abstract namespace
		to = "\x00" + to[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: to, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		log.Warn("the service manager cannot be told", "state", state, "error", err)
	}
}

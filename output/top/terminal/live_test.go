package terminal_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/output/top/terminal"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Without leave to trace there is still a snapshot, and the reason on the screen.
func TestUntraced(t *testing.T) {
	taken := 0
	live := &terminal.Live{
		Untraced: errors.New("this process lacks CAP_BPF"),
		Snapshot: func(context.Context) (*snapshot.Snapshot, error) {
			if taken++; taken == 2 {
				return nil, errors.New("interrupted")
			}
			return &snapshot.Snapshot{TimeNS: uint64(time.Now().UnixNano()), Source: "proc", PageSize: 4096, OnlineCPUs: 2, MlockKiB: 516,
				Processes: []snapshot.Process{{PID: 77, Comm: "holder", CgroupPath: "/a/b", PinnedVM: 9, LockLimit: 16, Buffers: 1, BufferPages: 9}},
				Users:     []snapshot.User{{UID: 0}}, Degraded: []string{"limits of others are hidden"}}, nil
		},
		Objects:   func(context.Context) ([]top.Object, error) { return nil, errors.New("needs CAP_SYS_ADMIN") },
		Container: func(path string) string { return "box" + strings.ReplaceAll(path, "/", "-") },
		Interval:  10 * time.Millisecond,
	}
	var out strings.Builder
	if err := terminal.Batch(t.Context(), top.Options{Title: "Linux", Interval: live.Interval}, live, []string{"processes", "users"}, 3, &out); err != nil {
		t.Fatal(err)
	}
	screens := strings.Split(out.String(), "pinwatch top")[1:]
	if len(screens) != 3 {
		t.Fatalf("%d screens:\n%s", len(screens), out.String())
	}
	for i, screen := range screens {
		for _, want := range []string{"trace: no new events are seen, only what exists: this process lacks CAP_BPF", "77 holder", "box-a-b", "root"} {
			if !strings.Contains(screen, want) {
				t.Errorf("screen %d: no %q in:\n%s", i+1, want, screen)
			}
		}
		if got, want := strings.Contains(screen, "snapshot: what existed before is not seen: interrupted"), i == 1; got != want {
			t.Errorf("screen %d: the snapshot failed: %v; want %v:\n%s", i+1, got, want, screen)
		}
	}
}

// With nothing at all to show, top fails, and says why of both.
func TestNothingToShow(t *testing.T) {
	live := &terminal.Live{
		Untraced: errors.New("no leave to trace"),
		Snapshot: func(context.Context) (*snapshot.Snapshot, error) { return nil, errors.New("no /proc") },
		Interval: time.Second,
	}
	err := terminal.Batch(t.Context(), top.Options{Interval: time.Second}, live, []string{"processes"}, 0, &strings.Builder{})
	if err == nil || !strings.Contains(err.Error(), "no leave to trace") || !strings.Contains(err.Error(), "no /proc") {
		t.Error(err)
	}
}

// A recording that is paced takes its time, whatever lies between its events no
// more than two seconds each, and ends all the same.
func TestReplayPace(t *testing.T) {
	line := func(ns string) string {
		return `{"v":1,"time_ns":` + ns + `,"kind":"charge","pid":1,"comm":"a","user_extra_pages":3,"user_locked_pages":3,"user_lock_limit_pages":4,"pinned_vm_pages":0,"lock_limit_pages":9,"process":1,"page_size_bytes":4096,"online_cpus":1,"user_locked_after_pages":3,"mappings_after":1}` + "\n"
	}
	in := line("1000000000") + line("1300000000") + line("90000000000000")
	for speed, want := range map[float64][2]time.Duration{0: {0, time.Second}, 1: {2300 * time.Millisecond, time.Minute}, 1000: {2 * time.Second, time.Minute}} {
		began := time.Now()
		recorded, err := recording.Open("-", strings.NewReader(in), time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		replay := &terminal.Replay{Recorded: recorded, Speed: speed, Interval: time.Second}
		var out strings.Builder
		if err := terminal.Batch(t.Context(), top.Options{Replay: true, Interval: time.Second}, replay, []string{"events"}, 0, &out); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < want[0] || took > want[1] {
			t.Errorf("speed %v: %s; want %s", speed, took, want)
		}
		if !strings.Contains(out.String(), "events: 3") {
			t.Errorf("speed %v:\n%s", speed, out.String())
		}
	}
}

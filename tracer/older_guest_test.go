//go:build guest

package tracer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// A process has mapped buffers up to the limit before the trace, and is killed
// during it; another one keeps its own. The trace judges what is refunded, says
// whose the rest is, and its recording tells all of that again.
func TestOlder(t *testing.T) { guests.Test(t, guesttest.Newest, judgesOlder) }

func judgesOlder(t *testing.T, k guesttest.Kernel) {
	kib := userPages(t, k)
	as2100 := func(args ...string) *guesttest.Cmd {
		return holdBuffers(t, append([]string{"--uid", "2100", "--memlock-kib", kib(128), "--pages", "64"}, args...)...)
	}
	keeper := as2100("--max", "3")
	keeper.WaitFor(`"buffer":3`)
	holder := as2100()
	holder.WaitFor(`"refused"`)
	if got, want := status(t, holder.Process.Pid, "VmPin"), kib(69)+" kB"; got != want {
		t.Errorf("VmPin of who was refused: %s; want %s", got, want)
	}

	recording := filepath.Join(t.TempDir(), "recording")
	recorder := guesttest.Command(t, "pinwatch", "record", recording, "--only", "perf").Start()
	recorder.WaitFor("watching")
	holder.Stop(unix.SIGKILL)
	if r := recorder.Stop(os.Interrupt); r.Code != 0 {
		t.Fatalf("record: %+v", r)
	}
	entries := recorded(t, read(t, recording))
	older, refunds := map[int]int64{}, map[int]int64{}
	for _, e := range entries {
		pages := map[ledger.Kind]map[int]int64{ledger.Preexisting: older, ledger.Refund: refunds}[e.Kind]
		if pages == nil {
			continue
		}
		pages[int(e.Caller.PID)] += e.ChargedUser + e.ChargedPinned
		if e.Verdict != ledger.OK || e.Uncertain || e.BufferID == 0 || e.ProcessID == 0 {
			t.Errorf("%+v", e)
		}
	}
	// 3 buffers of the keeper, and 6 of the holder up to the limit of 128 pages.
	keeps, held := keeper.Process.Pid, holder.Process.Pid
	if older[keeps] != 195 || older[held] != 390 || refunds[held] != -390 || len(refunds) != 1 {
		t.Errorf("older %v, refunds %v: want 195 of %d and 390 of %d, and the latter back", older, refunds, keeps, held)
	}
	t.Run("replay", func(t *testing.T) { replaysOlder(t, recording, keeps) })
	t.Run("top", func(t *testing.T) { topsOlder(t, recording, keeps) })
}

// holdBuffers starts a process that maps perf buffers, says so in JSON lines, and holds them
// until it is stopped or the test ends.
func holdBuffers(t *testing.T, args ...string) *guesttest.Cmd {
	t.Helper()
	return guesttest.Command(t, "pinwatch", append([]string{"workload", "perf-buffers", "--json", "--hold", "10m"}, args...)...).Start()
}

func replaysOlder(t *testing.T, recording string, keeper int) {
	said := run(t, "pinwatch", "replay", recording)
	for _, want := range []string{
		`6 events: 0 charges, 6 refunds, `,
		`uid 2100: 195 pages charged: 0 for live buffers, 0 that should not be, 195 older or not traced, 0 unexplained`,
		fmt.Sprintf(`  older: 195 pages for 3 buffers that process %d (pinwatch) has mapped`, keeper),
		"verdict: ok\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	_, rows, _ := strings.Cut(read(t, recording), "\n") // after the header
	if again := run(t, "pinwatch", "replay", "--json", "--include-self", recording); again != rows {
		t.Errorf("replayed otherwise:\n%s\nrecording:\n%s", again, rows)
	}
}

// topsOlder wants the holders as the recording ends: the one that is gone holds nothing.
func topsOlder(t *testing.T, recording string, keeper int) {
	screen := run(t, "pinwatch", "top", "--replay", recording, "--all", "-b", "--view", "processes,users")
	for _, want := range []string{
		fmt.Sprintf(`(?m)^ *%d pinwatch +2100 +· +128 .* 195 +3 `, keeper), // PINNED_VM, LOCK_LIMIT, ..., USER_SHARE, BUFS
		`(?m)^ *2100 .* 195 +516 `,
	} {
		if !regexp.MustCompile(want).MatchString(screen) {
			t.Errorf("no %q in\n%s", want, screen)
		}
	}
}

// Traces start again and again while processes map, unmap and die: none of them may say of
// the kernel what is not so, or leave pages unexplained.
func TestStarts(t *testing.T) { guests.Test(t, guesttest.Newest, startsClean) }

func startsClean(t *testing.T, k guesttest.Kernel) {
	kib := userPages(t, k)
	uids := []uint32{2001, 2002}
	busy, idle := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer idle()
	for _, uid := range uids {
		user := []string{"--uid", fmt.Sprint(uid), "--pages", "8"}
		holdBuffers(t, append(user, "--max", "5", "--memlock-kib", kib(128))...).WaitFor(`"buffer":5`)
		wait.Go(func() {
			for busy.Err() == nil { // each is killed at the end
				exec.CommandContext(busy, "pinwatch", append([]string{"workload", "perf-buffers", "--quiet", "--pause", "10ms", "--max", "30", "--memlock-kib", kib(1024)}, user...)...).Run()
			}
		})
	}
	starts := 1
	if guesttest.All() {
		starts = 3
	}
	for range starts {
		startsOnce(t, uids)
	}
}

// startsOnce has a trace begin, and end when it has seen enough of all users.
func startsOnce(t *testing.T, uids []uint32) {
	const enough = 50
	tr := begin(t, tracer.Options{})
	tr.until(func(entries []ledger.Entry) bool {
		seen := map[uint32]int{}
		for _, e := range entries {
			seen[e.Caller.UID]++
		}
		return seen[uids[0]] >= enough && seen[uids[1]] >= enough
	})
	tr.stop()
	for _, uid := range uids {
		explainsOlder(t, &tr.summary, uid, 45, 5)
	}
	// Calls that were under way when the probes came are no loss of the trace's.
	if tr.lost != 0 {
		t.Errorf("events were lost: %s", tr.Losses())
	}
	if s := &tr.summary; s.Broken() || s.Events == 0 {
		t.Errorf("no sound verdict: %+v", s)
	}
}

// explainsOlder wants a user's pages to be explained, and all that is older than the trace to be
// some buffers of one process, or of others that have ended since.
func explainsOlder(t *testing.T, s *ledger.Summary, uid uint32, pages int64, buffers int) {
	t.Helper()
	for _, u := range s.Users {
		if u.UID == uid && (u.Over != 0 || u.Unexplained() != 0) {
			t.Errorf("uid %d is not explained: %+v, %d unexplained", uid, u, u.Unexplained())
		}
	}
	for _, h := range s.Holders {
		if h.UID == uid && h.User == pages && h.Buffers == buffers && h.Pinned == 0 && h.Comm == "pinwatch" {
			return
		}
	}
	t.Errorf("uid %d: no %d pages for %d buffers of a process's in %+v", uid, pages, buffers, s.Holders)
}

package self

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// threadUIDs are the real and the effective uid of the thread that asks.
func threadUIDs(t *testing.T) (ids [2]uint32) {
	t.Helper()
	raw, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\nUid:")
	if _, err := fmt.Sscan(rest, &ids[0], &ids[1]); err != nil {
		t.Fatal(err)
	}
	return ids
}

// What is done as the user is done with its real uid and the old effective one, and
// afterwards nothing is as before but what was done; an error comes through.
func TestDo(t *testing.T) {
	before := threadUIDs(t)
	u := New()
	if os.Geteuid() != 0 {
		if u.Err() == nil || u.UID() != before[0] {
			t.Errorf("without CAP_SETUID: uid %d, %v", u.UID(), u.Err())
		}
		return
	}
	failed := errors.New("failed")
	var during [2]uint32
	if err := u.Do(func() error { during = threadUIDs(t); return failed }); err != failed {
		t.Error(err)
	}
	if want := [2]uint32{u.UID(), before[1]}; during != want || !Reserved(u.UID()) || Reserved(before[0]) {
		t.Errorf("during: uids %v; want %v", during, want)
	}
	if after := threadUIDs(t); after != before {
		t.Errorf("after: uids %v; want %v", after, before)
	}
}

// Without a user of its own a process does it as itself.
func TestDoAsItself(t *testing.T) {
	before := threadUIDs(t)
	for _, u := range []*User{nil, {err: errors.New("no CAP_SETUID")}} {
		ran := false
		err := u.Do(func() error { ran = threadUIDs(t) == before; return nil })
		if err != nil || !ran || u.UID() != uint32(os.Getuid()) {
			t.Errorf("%+v: ran as itself: %v, %v", u, ran, err)
		}
	}
}

// Every uid of a process is taken.
func TestUIDs(t *testing.T) {
	proc := t.TempDir()
	dir := filepath.Join(proc, "17")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), []byte("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := uids(proc)
	if err != nil || len(got) != 4 || !got[1] || !got[2] || !got[3] || !got[4] {
		t.Errorf("%v, %v", got, err)
	}
}

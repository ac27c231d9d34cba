package agent

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
)

// confinedChild confines itself, in the mode that is its argument.
const confinedChild = "confined"

func TestMain(m *testing.M) {
	child.Init(child.Table{confinedChild: child.Of(confineAndCall)})
	os.Exit(m.Run())
}

// confineAndCall says what became of a call that is in the list, and of one that is not, by a
// thread that was there before.
func confineAndCall(mode string) error {
	confined := make(chan struct{})
	said := make(chan string)
	go func() {
		runtime.LockOSThread()
		<-confined
		var info unix.Sysinfo_t
		listed := unix.Sysinfo(&info)
		_, _, other := unix.RawSyscall(unix.SYS_GETRESUID, 0, 0, 0) // to nowhere: EFAULT where it is made
		said <- fmt.Sprint(listed, " ", unix.ErrnoName(other))
	}()
	if _, err := confine(mode); err != nil {
		return err
	}
	close(confined)
	fmt.Println(<-said)
	return nil
}

// A system call that is not in the list is refused, or made where that is but logged; one in the
// list is made.
func TestConfine(t *testing.T) {
	for mode, want := range map[string]string{
		SeccompRefuse: "<nil> EPERM",
		SeccompLog:    "<nil> EFAULT",
	} {
		cmd := child.Command(t.Context(), confinedChild, mode)
		// The agent has nothing of glibc. With the race detector this has, whose new threads
		// call rseq, which is not in the list, and abort if they may not.
		cmd.Env = append(os.Environ(), "GLIBC_TUNABLES=glibc.pthread.rseq=0")
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: %v, %q; want %q", mode, err, got, want)
		}
	}
}

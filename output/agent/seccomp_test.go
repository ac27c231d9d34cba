package agent

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// confinedVariable has the test binary confine itself, in the mode that it names.
const confinedVariable = "PINWATCH_TEST_CONFINED"

func TestMain(m *testing.M) {
	if mode := os.Getenv(confinedVariable); mode != "" {
		confineAndCall(mode)
		return
	}
	os.Exit(m.Run())
}

// confineAndCall says what became of a call that is in the list, and of one that is not, by a
// thread that was there before.
func confineAndCall(mode string) {
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
		fmt.Println(err)
		return
	}
	close(confined)
	fmt.Println(<-said)
}

// A system call that is not in the list is refused, or made where that is but logged; one in the
// list is made.
func TestConfine(t *testing.T) {
	for mode, want := range map[string]string{
		SeccompRefuse: "<nil> EPERM",
		SeccompLog:    "<nil> EFAULT",
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), confinedVariable+"="+mode)
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: %v, %q; want %q", mode, err, got, want)
		}
	}
}

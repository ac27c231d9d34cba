package kernel

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What the library guesses of an EPERM is not said; what it knows stays.
func TestWithoutGuess(t *testing.T) {
	other := errors.New("map create: invalid argument")
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("map a: map create: %w%s", unix.EPERM, guess), "map a: map create: operation not permitted"},
		{fmt.Errorf("program b: load program: %w%s; map c%s", unix.EPERM, guess, guess), "program b: load program: operation not permitted; map c"},
		{fmt.Errorf("loading symbol addresses: symbol a: %w", ebpf.ErrRestrictedKernel), HiddenSymbols},
		{other, other.Error()},
	} {
		got := WithoutGuess(c.err)
		if got.Error() != c.want || errors.Is(got, unix.EPERM) != errors.Is(c.err, unix.EPERM) || errors.Is(got, ebpf.ErrRestrictedKernel) != errors.Is(c.err, ebpf.ErrRestrictedKernel) {
			t.Errorf("%v: %v; want %s", c.err, got, c.want)
		}
	}
	if WithoutGuess(nil) != nil {
		t.Error("an error of none")
	}
}

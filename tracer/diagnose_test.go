package tracer

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

// Ways that fail alike are told once, in one line, and none of them is forgotten.
func TestTogether(t *testing.T) {
	ring := func() error { return fmt.Errorf("map events: %w", unix.EINVAL) }
	attach := fmt.Errorf("attach: %w", fs.ErrNotExist)
	for _, c := range []struct {
		failures []error
		want     string
	}{
		{[]error{ring()}, "map events: invalid argument"},
		{[]error{ring(), ring(), ring()}, "map events: invalid argument"},
		{[]error{attach, ring(), ring()}, "map events: invalid argument; before that: attach: file does not exist"},
		{[]error{unix.EPERM, attach, ring()}, "map events: invalid argument; before that: operation not permitted; attach: file does not exist"},
	} {
		err := together(c.failures)
		if err.Error() != c.want {
			t.Errorf("got  %s\nwant %s", err, c.want)
		}
		for _, f := range c.failures {
			if cause := errors.Unwrap(f); cause != nil && !errors.Is(err, cause) {
				t.Errorf("%v is not in %v", cause, err)
			}
		}
	}
}

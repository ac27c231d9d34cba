package command

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/agent"
	"github.com/pinwatch/pinwatch/tracer/guest"
)

func TestStatusOf(t *testing.T) {
	plain := errors.New("plain")
	for _, test := range []struct {
		name   string
		err    error
		status int
		said   bool
	}{
		{"fine", nil, 0, false},
		{"failure", plain, 1, true},
		{"wrong usage", usageError{plain}, 2, true},
		{"wrapped", fmt.Errorf("explain: %w", usageError{plain}), 2, true},
		{"of its own", exitStatus(3), 3, false},
		{"an agent that cannot trace", fmt.Errorf("agent: %w", &agent.CannotTrace{Err: plain}), 4, true},
		{"a guest that died", &guest.Error{Kind: guest.ErrPanic}, 125, true},
		{"a reader that has seen enough", fmt.Errorf("write: %w", unix.EPIPE), 0, false},
	} {
		if status, err := statusOf(test.err); status != test.status || (err != nil) != test.said {
			t.Errorf("%s: status %d, error %v; want %d, said %v", test.name, status, err, test.status, test.said)
		}
	}
}

package guest

import (
	"bytes"
	"io"
	"sync"
)

// wholeLines passes on what a guest writes to one of its outputs, whole lines at a time:
// on a terminal that shows both of them, neither is written into the middle of the
// other's line.
type wholeLines struct {
	to   io.Writer
	turn *sync.Mutex // shared by the outputs
	rest []byte      // the line that has not ended
}

// Write keeps the line that has not ended. A carriage return ends one too.
func (w *wholeLines) Write(p []byte) (int, error) {
	end := bytes.LastIndexAny(p, "\n\r") + 1
	if end == 0 {
		w.rest = append(w.rest, p...)
		return len(p), nil
	}
	lines := append(w.rest, p[:end]...)
	w.rest = append([]byte(nil), p[end:]...)
	return len(p), w.pass(lines)
}

func (w *wholeLines) pass(p []byte) error {
	w.turn.Lock()
	defer w.turn.Unlock()
	_, err := w.to.Write(p)
	return err
}

// Flush passes on what did not end in a line.
func (w *wholeLines) Flush() error {
	if len(w.rest) == 0 {
		return nil
	}
	rest := w.rest
	w.rest = nil
	return w.pass(rest)
}

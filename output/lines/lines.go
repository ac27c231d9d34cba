// Package lines passes on whole lines.
package lines

import (
	"bytes"
	"io"
	"os"
)

// Writer collects what is written and passes whole lines on, many at a time. Others
// may write to the same place, such as the command that is traced: nothing of
// theirs gets into the midst of a line.
type Writer struct {
	to   io.Writer
	most int // bytes at a time, unless one line is longer
	held []byte
}

// Bytes at a time: a pipe keeps up to PIPE_BUF together, and a terminal shows them at
// once; a file takes any number.
const (
	pipeBytes = 4096
	fileBytes = 64 << 10
)

// New returns a writer of lines to another writer.
func New(to io.Writer) *Writer {
	l := &Writer{to: to, most: fileBytes}
	if file, ok := to.(*os.File); ok {
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
			l.most = pipeBytes
		}
	}
	return l
}

// Write holds p. It passes on what was held before, if both together are too much.
func (l *Writer) Write(p []byte) (int, error) {
	if len(l.held)+len(p) > l.most {
		if err := l.pass(bytes.LastIndexByte(l.held, '\n') + 1); err != nil {
			return 0, err
		}
	}
	l.held = append(l.held, p...)
	return len(p), nil
}

// Flush passes on everything.
func (l *Writer) Flush() error { return l.pass(len(l.held)) }

func (l *Writer) pass(n int) error {
	if n == 0 {
		return nil
	}
	_, err := l.to.Write(l.held[:n])
	l.held = append(l.held[:0], l.held[n:]...)
	return err
}

package command

import (
	"io"
	"os"

	"github.com/pinwatch/pinwatch/output/top/terminal"
)

// Streams are what a command reads and writes: data goes to Out, words to Err. Tests
// give buffers.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// Standard are the streams of this process.
func Standard() Streams { return Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr} }

// Terminal returns Out where that is a terminal that can show a screen; nil: it is not.
func (s *Streams) Terminal() *os.File {
	if file, ok := s.Out.(*os.File); ok && terminal.Is(file) {
		return file
	}
	return nil
}

// open opens a file to read; "-" is In.
func (s *Streams) open(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(s.In), nil
	}
	return os.Open(path)
}

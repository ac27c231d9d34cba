package recording

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// flushEvery is how much of a compressed recording a SIGKILL may take. A block for each row would
// not be compressed. What a power cut takes is up to the file system: nothing is synced.
const flushEvery = time.Second

// The first bytes of what is compressed.
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// Create makes the file of a recording, compressed if its name ends with .zst or .gz. An older
// one of that name is gone.
func Create(path string) (io.WriteCloser, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return Compress(file, filepath.Ext(path), flushEvery)
}

// Compress compresses what is written, as the ending of a file's name says. What was written
// is passed on no later than at the next flush.
func Compress(file io.WriteCloser, ending string, every time.Duration) (_ io.WriteCloser, err error) {
	var to compressor
	switch ending {
	case ".gz":
		to = gzip.NewWriter(file)
	case ".zst":
		if to, err = zstd.NewWriter(file, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20)); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	default:
		return file, nil
	}
	c := &compressed{to: to, file: file, end: make(chan struct{}), ended: make(chan struct{})}
	go c.flush(every)
	return c, nil
}

// compressor is gzip's or zstd's.
type compressor interface {
	io.WriteCloser
	Flush() error
}

// compressed is a file that is compressed as it is written.
type compressed struct {
	file       io.WriteCloser
	end, ended chan struct{}

	mu      sync.Mutex
	to      compressor
	written bool // since the last flush
	err     error
}

func (c *compressed) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.written = true
	return c.to.Write(p)
}

func (c *compressed) flush(every time.Duration) {
	defer close(c.ended)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.end:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		if c.written && c.err == nil {
			c.err, c.written = c.to.Flush(), false
		}
		c.mu.Unlock()
	}
}

// Close writes the rest.
func (c *compressed) Close() error {
	close(c.end)
	<-c.ended
	return errors.Join(c.err, c.to.Close(), c.file.Close())
}

// expand returns what a recording is when it is not compressed, which its first bytes say.
func expand(in io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(in)
	first, err := buffered.Peek(len(zstdMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(first, gzipMagic):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(first, zstdMagic):
		// A decoder that works beside its reader would have to be closed.
		return zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	}
	return buffered, nil
}

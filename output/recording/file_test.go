package recording_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pinwatch/pinwatch/output/recording"
)

// published is a recording of six events and a summary.
func published(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("../../testdata/recordings/published-overcharge.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// read returns how many events a recording has.
func read(in io.Reader) (r *recording.Reader, events int, err error) {
	r = recording.NewReader(in)
	for _, err := range r.Events() {
		if err != nil {
			return r, events, err
		}
		events++
	}
	return r, events, nil
}

// A recording that is cut off anywhere, as by SIGKILL or a power cut, has all events that are
// whole, and what is left out is said.
func TestTorn(t *testing.T) {
	text := published(t)
	lines := bytes.SplitAfter(text, []byte("\n"))
	first := len(lines[0])
	for cut := first; cut < len(text); cut += 1 + cut%61 {
		whole := bytes.Count(text[:cut], []byte("\n"))
		partial := cut - bytes.LastIndexByte(text[:cut], '\n') - 1
		if next := lines[whole]; partial == len(next)-1 {
			partial, whole = 0, whole+1 // but for its end it is there
		}
		r, events, err := read(bytes.NewReader(text[:cut]))
		if want := min(6, whole); err != nil || events != want {
			t.Fatalf("cut at %d: %d events, %v; want %d", cut, events, err, want)
		}
		if torn := r.Torn(); (partial == 0) != (torn == "") {
			t.Fatalf("cut at %d: %q", cut, torn)
		}
	}
	r, _, _ := read(bytes.NewReader(text[:first+10]))
	if want := "its last 10 bytes are no whole line: left out, after event 1"; r.Torn() != want {
		t.Errorf("%q, want %q", r.Torn(), want)
	}
	// A power cut leaves blocks of zeros.
	if r, events, err := read(io.MultiReader(bytes.NewReader(text[:first]), bytes.NewReader(make([]byte, 4096)))); err != nil || events != 1 || !strings.Contains(r.Torn(), "4096 bytes") {
		t.Errorf("zeros: %d events, %v, %q", events, err, r.Torn())
	}
	// What is not whole in the middle is damage, and what has no event is no recording.
	for name, damaged := range map[string]string{"middle": string(text[:first]) + "{\"v\":\n" + string(lines[1]), "first": string(text[:first-9])} {
		if _, _, err := read(strings.NewReader(damaged)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What Create compresses is read by its first bytes, whole and cut off.
func TestCompressed(t *testing.T) {
	text := bytes.Repeat(published(t), 50)
	for _, name := range []string{"a.jsonl", "a.jsonl.gz", "a.jsonl.zst"} {
		path := filepath.Join(t.TempDir(), name)
		w, err := recording.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if compressed := len(kept) < len(text)/5; compressed != (name != "a.jsonl") {
			t.Errorf("%s: %d bytes of %d", name, len(kept), len(text))
		}
		if r, events, err := read(bytes.NewReader(kept)); err != nil || events != 300 || r.Torn() != "" {
			t.Errorf("%s: %d events, %v, %q", name, events, err, r.Torn())
		}
	}
}

// A compressed recording that was flushed is there up to that, without its end.
func TestCompressedTorn(t *testing.T) {
	text := published(t)
	for name, compress := range map[string]func(io.Writer) interface {
		io.Writer
		Flush() error
	}{
		"gzip": func(w io.Writer) interface {
			io.Writer
			Flush() error
		} {
			return gzip.NewWriter(w)
		},
		"zstd": func(w io.Writer) interface {
			io.Writer
			Flush() error
		} {
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			return z
		},
	} {
		var out bytes.Buffer
		z := compress(&out)
		for _, part := range [][]byte{text[:len(text)/2], text[len(text)/2:]} {
			if _, err := z.Write(part); err != nil {
				t.Fatal(err)
			}
			if err := z.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		r, events, err := read(&out)
		if err != nil || events != 6 || !strings.Contains(r.Torn(), "last block is not whole") {
			t.Errorf("%s: %d events, %v, %q", name, events, err, r.Torn())
		}
	}
}

// A header is no event, and says where it is of.
func TestHeader(t *testing.T) {
	h, err := recording.NewHeader("v1.2", false)
	if err != nil {
		t.Fatal(err)
	}
	h.Host, h.Release, h.Arch, h.TimeNS = "web\x1b[2J1", "6.12.9", "amd64", 1_700_000_000_000_000_000
	var out bytes.Buffer
	if err := h.Write(&out); err != nil {
		t.Fatal(err)
	}
	out.Write(published(t))
	r, events, err := read(&out)
	if err != nil || events != 6 || r.Header() == nil || *r.Header() != *h {
		t.Fatalf("%d events, %v, %+v", events, err, r.Header())
	}
	if got, want := r.Header().String(), `recorded by pinwatch v1.2 on web\x1b[2J1: Linux 6.12.9 (amd64), from 2023-11-14 22:13:20 UTC`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if h, err := recording.NewHeader("v1.2", true); err != nil || h.Host != "" {
		t.Errorf("anonymous: %+v, %v", h, err)
	}
}

// Whatever is read, there is an end of it, and nothing is claimed of an event that was not read.
func FuzzReader(f *testing.F) {
	text := published(f)
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Add([]byte("{\"v\":2,\"kind\":\"header\"}\n"))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, events, err := read(bytes.NewReader(data))
		if err != nil && r.Torn() != "" {
			t.Errorf("torn and failed: %v, %q", err, r.Torn())
		}
		if r.Torn() != "" && events == 0 && r.Header() == nil {
			t.Errorf("torn without an event or a header: %q", r.Torn())
		}
	})
}

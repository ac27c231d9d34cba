package lines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writes notes what is written at a time.
type writes []string

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, string(p))
	return len(p), nil
}

func TestLines(t *testing.T) {
	for name, c := range map[string]struct{ parts, want []string }{
		"held until the end":   {[]string{"a\n", "b\n"}, []string{"a\nb\n"}},
		"no line is cut":       {[]string{"1234\n", "567\n", "89\n"}, []string{"1234\n567\n", "89\n"}},
		"lines in parts":       {[]string{"123", "4\n56", "78", "9\n"}, []string{"1234\n", "56789\n"}},
		"a long one by itself": {[]string{"a\n", "0123456789abc\n", "b\n"}, []string{"a\n", "0123456789abc\n", "b\n"}},
		"nothing":              {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got writes
			l := &Writer{to: &got, most: 10}
			for _, part := range c.parts {
				if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
					t.Errorf("%d, %v", n, err)
				}
			}
			if err := l.Flush(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(c.want, []string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What goes to a pipe comes in pieces that the kernel keeps together.
func TestLinesToAPipe(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if pipe, file, other := New(out).most, New(file).most, New(&strings.Builder{}).most; pipe != 4096 || file <= pipe || other != file {
		t.Errorf("%d bytes to a pipe, %d to a file, %d to others", pipe, file, other)
	}
}

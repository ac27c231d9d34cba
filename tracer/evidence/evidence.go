// Package evidence keeps what is left of kernels that were booted: the console, how QEMU was
// started, the report and a recording of the trace. All but the report is written as it
// comes, so that it is there whatever becomes of the kernel, or of pinwatch.
package evidence

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// The files of a kernel. The recordings of more than one trace are numbered from the
// second on.
const (
	ConsoleFile = "console.log"
	QEMUFile    = "qemu.sh"
	ReportFile  = "report.json"
	TraceFile   = "trace%s.jsonl" + TraceEnding
	TraceEnding = ".zst"
)

// Dir is a directory with one for each kernel.
type Dir struct {
	path string

	mu    sync.Mutex
	taken map[string]bool
}

// New makes the directory. One that holds something already is refused: what is in it would
// be taken for what is new.
func New(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: name another directory, or remove it", path)
	}
	return &Dir{path: path, taken: map[string]bool{}}, err
}

// unfit is what some system that keeps files of CI does not take in their names.
var unfit = regexp.MustCompile(`[^A-Za-z0-9._+~-]+`)

// Kernel makes the directory of a kernel. Without a Dir there is none, and what is written
// to it goes nowhere.
func (d *Dir) Kernel(name string) (*Kernel, error) {
	if d == nil {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	name = strings.TrimLeft(unfit.ReplaceAllString(name, "-"), ".")
	own := name
	for n := 2; own == "" || d.taken[own]; n++ {
		own = fmt.Sprintf("%s-%d", name, n)
	}
	d.taken[own] = true
	k := &Kernel{dir: filepath.Join(d.path, own)}
	return k, os.Mkdir(k.dir, 0o755)
}

// Kernel is the evidence of one kernel.
type Kernel struct {
	dir    string
	traces int

	mu    sync.Mutex
	files map[string]*os.File
	err   error // the first one
}

// Console is the file with the kernel's messages; "": there is none.
func (k *Kernel) Console() string {
	if k == nil {
		return ""
	}
	return filepath.Join(k.dir, ConsoleFile)
}

// write appends to a file.
func (k *Kernel) write(name string, p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files == nil {
		k.files = map[string]*os.File{}
	}
	if k.files[name] == nil {
		f, err := os.Create(filepath.Join(k.dir, name))
		if k.err = errors.Join(k.err, err); err != nil {
			return
		}
		k.files[name] = f
	}
	if _, err := k.files[name].Write(p); k.err == nil {
		k.err = err
	}
}

// Write takes what the kernel writes to its console. It does not fail: Close does.
func (k *Kernel) Write(p []byte) (int, error) {
	if k != nil {
		k.write(ConsoleFile, p)
	}
	return len(p), nil
}

// Booting takes the command line of QEMU, as a shell does, each time before it starts.
func (k *Kernel) Booting(command string) {
	if k == nil {
		return
	}
	k.write(QEMUFile, []byte(command+"\n"))
	k.write(ConsoleFile, []byte("--- pinwatch boots the kernel\n"))
}

// Close writes the report, and says whether all was kept.
func (k *Kernel) Close(report any) error {
	if k == nil {
		return nil
	}
	raw, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		return err
	}
	k.write(ReportFile, append(raw, '\n'))
	for _, f := range k.files {
		k.err = errors.Join(k.err, f.Close())
	}
	return k.err
}

// A trace comes out of its guest in lines, among others: one that begins it, and then its
// bytes in base64.
const (
	tracePrefix = "trace: "
	traceBegins = "begins"
)

// Trace takes a line that a guest wrote to stderr, and reports whether it is of a trace.
func (k *Kernel) Trace(line string) bool {
	text, ok := strings.CutPrefix(line, tracePrefix)
	if !ok || k == nil {
		return ok
	}
	if text == traceBegins {
		k.traces++
		return true
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return true // the kernel died while it was written
	}
	number := ""
	if k.traces > 1 {
		number = fmt.Sprintf("-%d", k.traces)
	}
	k.write(fmt.Sprintf(TraceFile, number), raw)
	return true
}

// Sender writes, in a guest, the lines of one trace.
func Sender(to io.Writer) io.WriteCloser {
	fmt.Fprintln(to, tracePrefix+traceBegins)
	return sender{to}
}

type sender struct{ to io.Writer }

func (s sender) Write(p []byte) (int, error) {
	_, err := fmt.Fprintln(s.to, tracePrefix+base64.StdEncoding.EncodeToString(p))
	return len(p), err
}

// Close does nothing: a trace has ended where no more of it comes.
func (s sender) Close() error { return nil }

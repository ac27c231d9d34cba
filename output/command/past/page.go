package past

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/page"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// ofCheck is how the report of a check begins. A recording is of lines with other fields.
var ofCheck = regexp.MustCompile(`^\s*\{\s*"v"\s*:\s*\d+\s*,\s*"kernels"`)

// Page makes the page of what was recorded, or of what a check found, and says the rest in words.
// in is what is at the path, and open.
func Page(to, words io.Writer, path string, in io.Reader, of value.Span) error {
	title := filepath.Base(path)
	buffered := bufio.NewReader(in)
	beginning, err := buffered.Peek(64)
	switch {
	case errors.Is(err, unix.EISDIR):
	case err != nil && err != io.EOF:
		return err
	case ofCheck.Match(beginning):
		return checkPage(to, title, buffered)
	default:
		path = "-" // whose beginning was read
	}
	recorded, err := recording.Open(path, buffered, of.From, of.To)
	if err != nil {
		return err
	}
	defer recorded.Close()
	defer recorded.Tell(words)
	w, everything := page.New(title, of.FromNS()), recording.Everything()
	for trace, gap := recorded.Next(); trace != nil; trace, gap = recorded.Next() {
		if gap != "" {
			w.Gap(gap)
		}
		if err := pipeline.Run(trace.Events(), trace.Lost, output.NewStream(w, &everything)); err != nil {
			return err
		}
	}
	return w.Finish(to)
}

// checkPage makes the page of what a check found.
func checkPage(to io.Writer, title string, from io.Reader) error {
	var found check.Report
	if err := json.NewDecoder(from).Decode(&found); err != nil {
		return err
	}
	if found.Version != check.Version {
		return fmt.Errorf("version %d of a check's report: this pinwatch reads version %d", found.Version, check.Version)
	}
	return page.Check(to, title, &found)
}

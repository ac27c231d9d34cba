// Package checked is what check does around a check: it checks the running kernel, in a
// guest for the host, and holds what was found against lists of known failures.
package checked

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/known"
)

// Known are the flags of check about known failures, and the list that they name.
type Known struct {
	names []string
	file  string // to be written; "": none
	list  known.List
}

// Add adds them.
func (x *Known) Add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&x.names, "known", nil, "`list` of failures that are known: a file, or stock; may be given several times")
	f.StringVar(&x.file, "write-known", "", "write a list of what fails now to this `file`")
	for _, list := range []string{"known", "write-known"} {
		for _, other := range []string{"emit", "explore", "program", "program-number"} {
			cmd.MarkFlagsMutuallyExclusive(list, other)
		}
	}
}

// Load reads the lists that were named.
func (x *Known) Load() error {
	for _, name := range x.names {
		list, err := known.Load(name)
		if err != nil {
			return fmt.Errorf("--known: %w", err)
		}
		x.list = append(x.list, list...)
	}
	return nil
}

// Mark marks in a report what is known.
func (x *Known) Mark(r *check.Report) { x.list.Mark(r) }

// Write writes the new list, if one is wanted. That there is none of this report is only
// said: what could not be checked has its exit status.
func (x *Known) Write(words io.Writer, r *check.Report) error {
	if x.file == "" {
		return nil
	}
	list, err := known.Of(r, x.list)
	if err != nil {
		fmt.Fprintf(words, "pinwatch: %s is not written: %v\n", x.file, err)
		return nil
	}
	var text bytes.Buffer
	if err := list.Write(&text); err != nil {
		return err
	}
	return os.WriteFile(x.file, text.Bytes(), 0o644)
}

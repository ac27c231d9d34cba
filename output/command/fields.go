package command

import (
	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output"
)

func newFields(s *Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fields [flags]",
		Short: "Explain the fields of trace --json, and the columns of its table",
		Long: `Lists the fields of the JSON lines that trace, record and replay write: what each
means, its type and unit, and which rows have it. A row has all fields of its
subsystem, always: perf, bpf, memcg or others (io_uring, AF_XDP and more, which
name themselves); "summary" is the last row of a trace. COLUMN is the heading in
the table of trace and in the events of top.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return output.Fields(s.Out, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object instead of a table")
	return cmd
}

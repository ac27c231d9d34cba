package command

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(s *Streams) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if quiet {
				return nil
			}
			_, err := fmt.Fprintln(s.Out, "pinwatch", version())
			return err
		},
	}
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print nothing, only succeed")
	return cmd
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

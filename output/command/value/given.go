package value

import (
	"slices"

	"github.com/spf13/pflag"
)

// Given are the flags that were given, but for some, as arguments.
func Given(f *pflag.FlagSet, but ...string) (args []string) {
	f.Visit(func(flag *pflag.Flag) {
		list, several := flag.Value.(pflag.SliceValue)
		switch {
		case slices.Contains(but, flag.Name) || flag.Value.String() == "false":
		case flag.Value.Type() == "bool":
			args = append(args, "--"+flag.Name)
		case several:
			for _, value := range list.GetSlice() {
				args = append(args, "--"+flag.Name, value)
			}
		default:
			args = append(args, "--"+flag.Name, flag.Value.String())
		}
	})
	return args
}

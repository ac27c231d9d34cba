package value

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// paths is the value of a flag that takes paths, each with a flag of its own, and each
// perhaps as NAME=PATH.
type paths struct {
	values *[]string
	names  *[]string
}

// NamedPaths adds such a flag. The names are those to complete.
func NamedPaths(f *pflag.FlagSet, values, names *[]string, name, usage string) {
	f.Var(&paths{values, names}, name, usage)
}

func (p *paths) Set(text string) error {
	*p.values = append(*p.values, text)
	return nil
}

func (p *paths) String() string                    { return strings.Join(*p.values, " ") }
func (p *paths) Type() string                      { return "path" }
func (*paths) directive() cobra.ShellCompDirective { return cobra.ShellCompDirectiveNoSpace }
func (p *paths) complete(typed string) (list []string) {
	before, path, named := "", typed, false
	if at := strings.LastIndex(typed, "="); at >= 0 {
		before, path, named = typed[:at+1], typed[at+1:], true
	}
	if !named {
		for _, name := range *p.names {
			list = append(list, name+"=")
		}
	}
	dir, _ := filepath.Split(path)
	entries, _ := os.ReadDir(filepath.Clean("./" + dir))
	if filepath.IsAbs(path) {
		entries, _ = os.ReadDir(dir)
	}
	for _, e := range entries {
		whole := before + dir + e.Name()
		if e.IsDir() {
			whole += "/"
		}
		list = append(list, whole)
	}
	return list
}

// Package value has the values that flags of commands take: names from a list, KiB, and
// names that a flag had before.
package value

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Renamed keeps the old name of a flag working. It is not in the help, and to use it
// is answered with the new one.
func Renamed(f *pflag.FlagSet, old, name string) {
	alias := *f.Lookup(name)
	alias.Name, alias.Shorthand, alias.Hidden = old, "", true
	alias.Annotations = map[string][]string{newName: {name}}
	f.AddFlag(&alias)
}

// newName annotates an old flag.
const newName = "pinwatch_new_name"

// TellNewName says of a flag that was used what it is called by now.
func TellNewName(w io.Writer, f *pflag.Flag) {
	if name := f.Annotations[newName]; name != nil {
		fmt.Fprintf(w, "pinwatch: --%s is now called --%s\n", f.Name, name[0])
	}
}

// enum is the value of a flag that takes one of some names.
type enum struct {
	value *string
	names []string
}

// Enum adds such a flag. The usage ends with the names.
func Enum(f *pflag.FlagSet, value *string, name, standard string, names []string, usage string) {
	*value = standard
	f.Var(&enum{value, names}, name, usage+": "+Alternatives(names))
}

func (e *enum) Set(text string) error {
	if !slices.Contains(e.names, text) {
		return errors.New("want " + Alternatives(e.names))
	}
	*e.value = text
	return nil
}

func (e *enum) String() string             { return *e.value }
func (e *enum) Type() string               { return "name" }
func (e *enum) complete(_ string) []string { return e.names }

// enums is the value of a flag that takes several names, parted by commas or each with
// a flag of its own.
type enums struct {
	values *[]string
	names  []string
	check  func(name string) error
	given  bool // the values are no longer the standard ones
}

// Enums adds such a flag. The usage ends with the names.
func Enums(f *pflag.FlagSet, values *[]string, name string, standard, names []string, usage string) {
	EnumsFunc(f, values, name, standard, names, usage+": "+Alternatives(names), func(text string) error {
		if !slices.Contains(names, text) {
			return errors.New("want " + Alternatives(names))
		}
		return nil
	})
}

// EnumsFunc adds a flag that takes several names that a function accepts, of which
// those given are completed.
func EnumsFunc(f *pflag.FlagSet, values *[]string, name string, standard, names []string, usage string, check func(string) error) {
	*values = standard
	f.Var(&enums{values: values, names: names, check: check}, name, usage)
}

func (e *enums) Set(text string) error {
	list := strings.Split(text, ",")
	for _, name := range list {
		if err := e.check(name); err != nil {
			return err
		}
	}
	if !e.given {
		*e.values, e.given = nil, true
	}
	*e.values = append(*e.values, list...)
	return nil
}

func (e *enums) String() string { return strings.Join(*e.values, ",") }
func (e *enums) Type() string   { return "names" }

// complete completes the last of the names.
func (e *enums) complete(typed string) (whole []string) {
	before := typed[:strings.LastIndex(typed, ",")+1]
	for _, name := range e.names {
		if !slices.Contains(strings.Split(before, ","), name) {
			whole = append(whole, before+name)
		}
	}
	return whole
}

// Alternatives are names as one reads them out: "a, b or c".
func Alternatives(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// Complete has the shell complete the values of a flag that has names for them.
func Complete(cmd *cobra.Command, f *pflag.Flag) {
	value, ok := f.Value.(interface{ complete(typed string) []string })
	if !ok {
		return
	}
	cmd.RegisterFlagCompletionFunc(f.Name, func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		var fitting []string
		for _, name := range value.complete(typed) {
			if strings.HasPrefix(name, typed) {
				fitting = append(fitting, name)
			}
		}
		directive := cobra.ShellCompDirectiveNoFileComp
		if v, ok := f.Value.(interface {
			directive() cobra.ShellCompDirective
		}); ok {
			directive |= v.directive()
		}
		return fitting, directive
	})
}

// KiB adds a flag that gives bytes in KiB, of which a check may refuse some.
func KiB(f *pflag.FlagSet, bytes *int64, name, usage string, check func(kib int64) error) {
	f.Var(&kibibytes{bytes, check}, name, usage)
}

// kibibytes is the value of a flag that gives bytes in KiB. A negative number stands
// for something else, where the check allows it.
type kibibytes struct {
	bytes *int64
	check func(kib int64) error
}

// FromKiB is bytes from KiB; what is negative stays as it is.
func FromKiB(kib int64) int64 {
	if kib < 0 {
		return kib
	}
	return kib << 10
}

func (k *kibibytes) Set(text string) error {
	kib, err := strconv.ParseInt(text, 0, 54) // as many as are an int64 in bytes
	if err != nil {
		return errors.New("want a number of KiB")
	}
	if err := k.check(kib); err != nil {
		return err
	}
	*k.bytes = FromKiB(kib)
	return nil
}

func (k *kibibytes) String() string {
	if *k.bytes < 0 {
		return strconv.FormatInt(*k.bytes, 10)
	}
	return strconv.FormatInt(*k.bytes>>10, 10)
}

func (k *kibibytes) Type() string { return "KiB" }

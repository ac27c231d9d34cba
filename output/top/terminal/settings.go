package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// DefaultConfig is the file for a user's settings, by XDG_CONFIG_HOME or HOME; "" without either.
func DefaultConfig() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "pinwatch", "top.conf")
}

// SaveSettings writes long flags of top and their values, one a line: whole or not at all.
func SaveSettings(path, settings string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := "# Flags of pinwatch top, as W or --save wrote them.\n" + settings
	part := path + ".new"
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// ApplySettings sets the flags that a file names and the command line does not. It is an error
// to name another flag than those allowed.
func ApplySettings(path string, flags *pflag.FlagSet, allowed []string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	if given["view"] {
		given["sort"] = true // a column of another view, perhaps
	}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line := strings.TrimSpace(string(line))
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, _ := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		var err error
		switch {
		case !slices.Contains(allowed, name):
			err = errors.New("no such setting: there are " + strings.Join(allowed, ", "))
		case !given[name]:
			err = flags.Set(name, value)
		}
		if err != nil {
			return fmt.Errorf("%s line %d: %s: %w", path, number, line, err)
		}
	}
	return nil
}

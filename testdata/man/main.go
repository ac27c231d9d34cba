// Man writes what a package has besides the binary that comes from the commands: man
// pages, and completions for shells.
//
//	man DIR VERSION DATE
//
// DIR is a prefix, like /usr. Pages show the text of --help as it is: a list keeps its lines,
// where markdown (cobra/doc) would run them together.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output/command"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: man DIR VERSION DATE")
		os.Exit(2)
	}
	if err := write(command.Root(command.Standard()), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintf(os.Stderr, "man: %v\n", err)
		os.Exit(1)
	}
}

func write(root *cobra.Command, dir, version, date string) error {
	files := map[string][]byte{}
	if err := completions(root, files); err != nil {
		return err
	}
	pages(root, version, date, files)
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// completions are where bash, zsh and fish look for those of other people's packages.
func completions(root *cobra.Command, files map[string][]byte) error {
	var bash, zsh, fish bytes.Buffer
	if err := root.GenBashCompletionV2(&bash, true); err != nil {
		return err
	}
	if err := root.GenZshCompletion(&zsh); err != nil {
		return err
	}
	if err := root.GenFishCompletion(&fish, true); err != nil {
		return err
	}
	files["share/bash-completion/completions/pinwatch"] = bash.Bytes()
	files["share/zsh/site-functions/_pinwatch"] = zsh.Bytes()
	files["share/fish/vendor_completions.d/pinwatch.fish"] = fish.Bytes()
	return nil
}

// pages are those of a command and of all below it.
func pages(c *cobra.Command, version, date string, files map[string][]byte) {
	c.InitDefaultHelpFlag()
	files["share/man/man1/"+name(c)+".1.gz"] = compress(page(c, version, date))
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			pages(sub, version, date, files)
		}
	}
}

func compress(page []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // a level that there is
	w.Write(page)                                         // into memory
	w.Close()
	return b.Bytes()
}

func name(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func page(c *cobra.Command, version, date string) []byte {
	var b bytes.Buffer
	section := func(title string) { fmt.Fprintf(&b, ".SH %s\n", title) }
	fmt.Fprintf(&b, ".TH %s 1 %s \"pinwatch %s\" \"Pinwatch\"\n.nh\n.ad l\n", escape(strings.ToUpper(name(c))), escape(date), escape(version))
	section("NAME")
	fmt.Fprintf(&b, "%s \\- %s\n", escape(name(c)), escape(c.Short))
	section("SYNOPSIS")
	fmt.Fprintf(&b, ".B %s\n", escape(c.UseLine()))
	section("DESCRIPTION")
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	prose(&b, long)
	if c.HasAvailableSubCommands() {
		section("COMMANDS")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", escape(name(sub)), escape(sub.Short))
			}
		}
	}
	section("OPTIONS")
	verbatim(&b, c.LocalFlags().FlagUsagesWrapped(78))
	if inherited := c.InheritedFlags().FlagUsagesWrapped(78); inherited != "" {
		section("OPTIONS OF ALL COMMANDS")
		verbatim(&b, inherited)
	}
	if c.Example != "" {
		section("EXAMPLES")
		verbatim(&b, c.Example)
	}
	if c.HasParent() {
		section("SEE ALSO")
		fmt.Fprintf(&b, ".BR %s (1)\n", escape(name(c.Parent())))
	}
	return b.Bytes()
}

// prose writes paragraphs, whose lines are filled, and what is in columns as it is.
func prose(b *bytes.Buffer, text string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		b.WriteString(".PP\n")
		columns := columnsIn(paragraph)
		for line := range strings.SplitSeq(paragraph, "\n") {
			if columns || strings.HasPrefix(line, " ") {
				verbatim(b, line)
			} else {
				fmt.Fprintln(b, escape(line))
			}
		}
	}
}

// columnsIn reports whether all of a paragraph is a table: its first line has a column
// after two spaces.
func columnsIn(paragraph string) bool {
	first, _, _ := strings.Cut(paragraph, "\n")
	return strings.Contains(strings.TrimSpace(first), "  ")
}

func verbatim(b *bytes.Buffer, text string) {
	b.WriteString(".nf\n")
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintln(b, escape(line))
	}
	b.WriteString(".fi\n")
}

// escape makes roff show a line as it is.
func escape(line string) string {
	line = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`).Replace(line)
	if strings.HasPrefix(line, ".") || line == "" {
		line = `\&` + line
	}
	return line
}

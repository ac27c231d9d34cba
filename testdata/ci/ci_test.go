// Package ci tests the worked examples of CI that run: that for git bisect.
package ci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/guest/fakeqemu"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

var guests guesttest.Guests

func TestMain(m *testing.M) { os.Exit(guests.Main(m)) }

// TestQEMU plays a kernel, which its image says what it is.
func TestQEMU(t *testing.T) {
	g := fakeqemu.Play(t)
	image, err := os.ReadFile(g.Option("-kernel"))
	if err != nil {
		t.Fatal(err)
	}
	k := check.Kernel{Release: "6.1.1", Scenarios: []check.Scenario{{Name: "map-twice", Result: check.Pass}}}
	switch sc := &k.Scenarios[0]; {
	case strings.HasSuffix(string(image), "panics"):
		fmt.Fprintln(g.Console, "Kernel panic - not syncing: VFS: Unable to mount root fs")
		return
	case strings.HasSuffix(string(image), "lacks"):
		sc.Result, sc.Reason = check.Skip, "requires a kernel with CONFIG_PERF_EVENTS"
	case strings.HasSuffix(string(image), "bad"):
		sc.Result, sc.Verdicts = check.Fail, []string{"double-charge"}
	}
	json.NewEncoder(g.Stdout).Encode(check.ReportOf(k))
	g.End(0)
}

// make stands in for the kernel's: the image says what the source is, and starts with what
// tells that it is one. It is no newer than the vmlinux that it is made of.
const makeKernel = `#!/bin/sh
case $* in *bzImage*) ;; *) echo "make $*: want bzImage" >&2; exit 2 ;; esac
grep -q broken source && exit 2
mkdir -p arch/x86/boot
echo >vmlinux
{ head -c 514 /dev/zero; printf HdrS; head -c 506 /dev/zero; printf %s "$(cat source)"; } >arch/x86/boot/bzImage
`

// The script finds the commit that broke the accounting, past those that do not build, do not boot
// and lack what the scenario needs; what is wrong with its call ends it.
func TestBisect(t *testing.T) {
	fakeqemu.Install(t, "TestQEMU")
	dir := t.TempDir()
	script, err := filepath.Abs("bisect.sh")
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(dir, "tools")
	if err := errors.Join(os.Mkdir(tools, 0o755), os.WriteFile(filepath.Join(tools, "make"), []byte(makeKernel), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PINWATCH", guesttest.Binary(t)) // which is built with the user's own cache
	t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	for _, name := range []string{"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"} {
		t.Setenv(name, "nobody@localhost")
	}
	tree := filepath.Join(dir, "linux")
	in := func(command string) (said string, code int) {
		t.Helper()
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", command)
		cmd.Dir = tree
		raw, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(raw), cmd.ProcessState.ExitCode()
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	commits := []string{"good", "good", "panics", "broken", "good", "bad", "lacks", "bad", "broken", "bad"}
	said, code := in("git init -q .; printf '%s\\n' arch/ vmlinux >.gitignore; git add .; i=0; for is in " + strings.Join(commits, " ") +
		`; do i=$((i+1)); printf '%s\n' "$i" >number; printf '%s' "$is" >source; git add .; git commit -qm "commit $i: $is"; done`)
	if code != 0 {
		t.Fatal(said)
	}
	for name, c := range map[string]struct {
		command string
		fails   bool
		words   string // a regular expression
	}{
		"the default":    {script, false, `[0-9a-f]{40} is the first bad commit\n(?s:.*)commit 6: bad`},
		"a scenario":     {script + " map-twice", false, `[0-9a-f]{40} is the first bad commit\n(?s:.*)commit 6: bad`},
		"no scenario":    {script + " map-twise", true, `unknown scenario "map-twise"(?s:.*)bisect run failed`},
		"no pinwatch":    {"env PINWATCH=pin-watch " + script, true, `bisect.sh: no pin-watch: put it into PATH, or name it by PINWATCH(?s:.*)bisect run failed`},
		"nothing builds": {"env BUILD=false " + script, true, `(?i)there are only 'skip'ped commits left to test`},
		"another tree":   {"env BUILD='make -s O=out bzImage && mkdir -p out/arch/x86/boot && cp arch/x86/boot/bzImage out/arch/x86/boot' TREE=out " + script, false, `commit 6: bad`},
	} {
		t.Run(name, func(t *testing.T) {
			said, code := in("git bisect reset; git clean -qfdx; git bisect start HEAD HEAD~9; git bisect run " + c.command)
			if (code != 0) != c.fails || !regexp.MustCompile(c.words).MatchString(said) {
				t.Errorf("exit %d\n%s\nwant %q", code, said, c.words)
			}
		})
	}
}

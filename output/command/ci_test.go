package command

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"mvdan.cc/sh/v3/syntax"
)

// workflow is as much of a workflow of GitHub's as the example uses: no key that is not
// among these.
type workflow struct {
	Name        string            `yaml:"name"`
	On          map[string]any    `yaml:"on"`
	Permissions map[string]string `yaml:"permissions"`
	Jobs        map[string]struct {
		RunsOn   string `yaml:"runs-on"`
		Minutes  int    `yaml:"timeout-minutes"`
		Strategy struct {
			FailFast bool                `yaml:"fail-fast"`
			Matrix   map[string][]string `yaml:"matrix"`
		} `yaml:"strategy"`
		Steps []struct {
			Name string            `yaml:"name"`
			Uses string            `yaml:"uses"`
			If   string            `yaml:"if"`
			With map[string]string `yaml:"with"`
			Run  string            `yaml:"run"`
		} `yaml:"steps"`
	} `yaml:"jobs"`
}

// gitlab is the same of GitLab's: every other key is a job.
type gitlab struct {
	Default struct {
		Image   string `yaml:"image"`
		Timeout string `yaml:"timeout"`
	} `yaml:"default"`
	Variables map[string]string    `yaml:"variables"`
	Jobs      map[string]gitlabJob `yaml:",inline"`
}

type gitlabJob struct {
	Extends   string            `yaml:"extends"`
	Tags      []string          `yaml:"tags"`
	Variables map[string]string `yaml:"variables"`
	Parallel  struct {
		Matrix []map[string][]string `yaml:"matrix"`
	} `yaml:"parallel"`
	Before    []string `yaml:"before_script"`
	Script    []string `yaml:"script"`
	After     []string `yaml:"after_script"`
	Artifacts struct {
		When    string            `yaml:"when"`
		Paths   []string          `yaml:"paths"`
		Reports map[string]string `yaml:"reports"`
	} `yaml:"artifacts"`
	Cache struct {
		Key   string   `yaml:"key"`
		Paths []string `yaml:"paths"`
	} `yaml:"cache"`
}

// example reads a file of testdata/ci.
func example(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "ci", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// strictly parses YAML of which all keys are known, and each comes once.
func strictly(t *testing.T, name string, into any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(example(t, name)))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// scripts are those of all examples, by where they stand.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	list := map[string]string{"bisect.sh": string(example(t, "bisect.sh"))}
	var w workflow
	strictly(t, "github.yml", &w)
	expression := regexp.MustCompile(`\$\{\{.*?\}\}`)
	for name, job := range w.Jobs {
		for i, step := range job.Steps {
			if (step.Uses == "") == (step.Run == "") {
				t.Errorf("github.yml: %s: step %d: want one of uses and run", name, i)
			}
			if step.Run != "" {
				list["github.yml: "+name+": "+step.Name] = expression.ReplaceAllString(step.Run, "expression")
			}
		}
	}
	var g gitlab
	strictly(t, "gitlab-ci.yml", &g)
	for name, job := range g.Jobs {
		if _, there := g.Jobs[job.Extends]; job.Extends != "" && !there {
			t.Errorf("gitlab-ci.yml: %s extends %s, which is not there", name, job.Extends)
		}
		list["gitlab-ci.yml: "+name] = strings.Join(slices.Concat(job.Before, job.Script, job.After), "\n")
	}
	return list
}

// calls are the arguments with which a script calls pinwatch. A variable is what it was set to
// before, what it is without a value, or its own name.
func calls(t *testing.T, script string) (list [][]string) {
	t.Helper()
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(script), "")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	var word func(parts []syntax.WordPart) string
	word = func(parts []syntax.WordPart) (text string) {
		for _, part := range parts {
			switch part := part.(type) {
			case *syntax.Lit:
				text += part.Value
			case *syntax.SglQuoted:
				text += part.Value
			case *syntax.DblQuoted:
				text += word(part.Parts)
			case *syntax.ParamExp:
				name := part.Param.Value
				switch value, set := values[name]; {
				case set:
					text += value
				case part.Exp != nil:
					text += word(part.Exp.Word.Parts)
				default:
					text += name
				}
			}
		}
		return text
	}
	syntax.Walk(file, func(node syntax.Node) bool {
		if a, ok := node.(*syntax.Assign); ok {
			values[a.Name.Value] = word(a.Value.Parts)
		}
		if call, ok := node.(*syntax.CallExpr); ok {
			var words []string
			for _, arg := range call.Args {
				words = append(words, word(arg.Parts))
			}
			for len(words) > 0 && (words[0] == "sudo" || words[0] == "exec") {
				words = words[1:]
			}
			if len(words) > 0 && words[0] == "pinwatch" {
				list = append(list, words[1:])
			}
		}
		return true
	})
	return list
}

// The worked examples of CI are files that their systems read, and every call of pinwatch in
// them is one that it understands.
func TestExamplesOfCI(t *testing.T) {
	var commands []string
	for where, script := range scripts(t) {
		said, err := exec.Command("bash", "-n", "-c", script).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s", where, said)
		}
		if checker, err := exec.LookPath("shellcheck"); err == nil { // make test installs it
			cmd := exec.Command(checker, "--shell=bash", "--severity=style", "--exclude=SC2034,SC2086,SC2154", "-")
			cmd.Stdin = strings.NewReader(script)
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s", where, said)
			}
		}
		for _, args := range calls(t, script) {
			cmd, rest, err := newRoot(&Streams{}).Find(args)
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil {
				err = cmd.Args(cmd, cmd.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: pinwatch %s: %v", where, strings.Join(args, " "), err)
				continue
			}
			commands = append(commands, cmd.Name())
		}
	}
	slices.Sort(commands)
	if got, want := strings.Join(commands, " "), "check check check check check doctor record record replay replay"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

package reproducer

import (
	"fmt"
	"strings"
	"text/template/parse"
)

// fill fills a template of text/template in, of which it has what a C file takes: values, calls
// with words, if, or, and range over strings. text/template itself calls methods by name, for
// which the linker keeps every method of the whole program: a sixth of its size.
func (f *file) fill(text string) (string, error) {
	tree := parse.New("reproducer")
	tree.Mode = parse.SkipFuncCheck
	if _, err := tree.Parse(text, "", "", map[string]*parse.Tree{}); err != nil {
		return "", err
	}
	t := filling{values: map[string]any{
		"Name": f.Name, "File": f.File(), "Emit": f.Emit, "Head": f.Head(), "KTAP": f.KTAP(),
		"Processes": f.Processes, "Events": f.Events, "Mappings": f.Mappings, "Objects": f.Objects, "Users": f.Users, "Calls": f.Calls,
		"AUX": f.AUX, "HasAUX": f.HasAUX(), "NeedsAUX": f.NeedsAUX, "Parts": f.Parts(), "Maps": f.Maps(), "Settings": f.Settings(), "MlockPages": f.MlockPages,
	}, uses: f.Uses}
	if err := t.node(tree.Root, nil); err != nil {
		return "", err
	}
	return t.out.String(), nil
}

// filling is a template that is being filled in.
type filling struct {
	values map[string]any
	uses   func(calls ...string) bool
	out    strings.Builder
}

// node writes a node; dot is the element of the range that it is in.
func (t *filling) node(n parse.Node, dot any) error {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil // no else
		}
		for _, child := range n.Nodes {
			if err := t.node(child, dot); err != nil {
				return err
			}
		}
		return nil
	case *parse.TextNode:
		t.out.Write(n.Text)
		return nil
	case *parse.ActionNode:
		value, err := t.value(n.Pipe, dot)
		fmt.Fprint(&t.out, value)
		return err
	case *parse.IfNode:
		value, err := t.value(n.Pipe, dot)
		if err != nil {
			return err
		}
		if truth(value) {
			return t.node(n.List, dot)
		}
		return t.node(n.ElseList, dot)
	case *parse.RangeNode:
		value, err := t.value(n.Pipe, dot)
		if err != nil {
			return err
		}
		for _, element := range value.([]string) {
			if err := t.node(n.List, element); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("template: %s is nothing that is filled in here", n)
}

// value is that of an argument, of a pipe of one command, or of a command.
func (t *filling) value(n parse.Node, dot any) (any, error) {
	switch n := n.(type) {
	case *parse.PipeNode:
		if len(n.Cmds) == 1 && len(n.Decl) == 0 {
			return t.value(n.Cmds[0], dot)
		}
	case *parse.DotNode:
		return dot, nil
	case *parse.StringNode:
		return n.Text, nil
	case *parse.FieldNode:
		if value, ok := t.values[n.Ident[0]]; ok && len(n.Ident) == 1 {
			return value, nil
		}
	case *parse.CommandNode:
		if len(n.Args) == 1 {
			return t.value(n.Args[0], dot)
		}
		var args []any
		for _, arg := range n.Args[1:] {
			value, err := t.value(arg, dot)
			if err != nil {
				return nil, err
			}
			args = append(args, value)
		}
		switch n.Args[0].String() {
		case "or":
			for _, arg := range args {
				if truth(arg) {
					return true, nil
				}
			}
			return false, nil
		case ".Uses":
			var calls []string
			for _, arg := range args {
				calls = append(calls, fmt.Sprint(arg))
			}
			return t.uses(calls...), nil
		case ".Enum":
			return strings.Join(args[0].([]string), ", "), nil
		}
	}
	return nil, fmt.Errorf("template: %s is nothing that is known here", n)
}

// truth is what if takes for true: what is there.
func truth(value any) bool {
	switch v := value.(type) {
	case bool:
		return v
	case string:
		return v != ""
	case []string:
		return len(v) > 0
	case int:
		return v != 0
	case int64:
		return v != 0
	}
	return false
}

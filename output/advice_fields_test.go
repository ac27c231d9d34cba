package output

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/charging"
)

// The README lists the fields of each kind of JSON that explain writes, all of them and no
// others.
func TestAdviceFieldsAreListed(t *testing.T) {
	raw, err := os.ReadFile("../tracer/advice/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "\n## The fields of its JSON\n")
	tables := strings.Split(text, "| object | its fields |\n")
	if len(tables) != 5 {
		t.Fatalf("%d tables; want one of what all have, and three", len(tables)-1)
	}
	common := fieldsListed(tables[1])
	for i, x := range []any{advice.Explanation{}, charging.Answer{}, refusedCall{}} {
		listed := append(fieldsListed(tables[i+2]), common...)
		fields := jsonFields(reflect.TypeOf(x), "the whole")
		slices.Sort(listed)
		slices.Sort(fields)
		if diff := cmp.Diff(fields, listed); diff != "" {
			t.Errorf("%T: fields (-) and those listed (+):\n%s", x, diff)
		}
	}
}

// fieldsListed are the fields of a table: the object, and what stands between backticks and
// is no value of another field's, in brackets.
func fieldsListed(table string) (list []string) {
	brackets, quoted := regexp.MustCompile(` \([^)]*\)`), regexp.MustCompile("`([a-z_0-9]+)`")
	for _, line := range strings.Split(table, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || strings.HasPrefix(cells[1], "---") {
			continue
		}
		object := strings.Trim(cells[1], " `")
		for _, m := range quoted.FindAllStringSubmatch(brackets.ReplaceAllString(cells[2], ""), -1) {
			list = append(list, object+": "+m[1])
		}
	}
	return list
}

// jsonFields are the fields of a type, and of those in it.
func jsonFields(of reflect.Type, object string) (list []string) {
	for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct {
		return nil
	}
	for i := range of.NumField() {
		name := of.Field(i).Tag.Get("json")
		if name == "-" {
			continue
		}
		if of.Field(i).Anonymous {
			list = append(list, jsonFields(of.Field(i).Type, object)...)
			continue
		}
		list = append(list, fmt.Sprintf("%s: %s", object, name))
		list = append(list, jsonFields(of.Field(i).Type, name)...)
	}
	return list
}

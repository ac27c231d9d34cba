package report

import (
	"reflect"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// printable is a report of which nothing but printable text is left: a guest's kernel, which
// may be anyone's, has a say in all of it. Names have one line.
func printable(r *check.Report) *check.Report {
	clean := *r
	mapTexts(reflect.ValueOf(&clean).Elem(), printableLines)
	for i := range clean.Kernels {
		k := &clean.Kernels[i]
		for _, name := range []*string{&k.Image, &k.Release, &k.Arch, &k.Log, &k.Tracer} {
			*name = format.Printable(*name)
		}
		mapTexts(reflect.ValueOf(&k.Gone).Elem(), format.Printable)
		for j := range k.Scenarios {
			sc := &k.Scenarios[j]
			sc.Name, sc.Result, sc.Known = format.Printable(sc.Name), format.Printable(sc.Result), format.Printable(sc.Known)
			mapTexts(reflect.ValueOf(&sc.Verdicts).Elem(), format.Printable)
		}
	}
	return &clean
}

// mapTexts changes every text of a value, whose slices are copied first.
func mapTexts(v reflect.Value, change func(string) string) {
	switch v.Kind() {
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		own := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(own, v)
		v.Set(own)
		for i := range v.Len() {
			mapTexts(v.Index(i), change)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			mapTexts(v.Field(i), change)
		}
	case reflect.String:
		v.SetString(change(v.String()))
	}
}

// plainName is a name as a line has room for it that is parted by spaces.
func plainName(name string) string { return strings.NewReplacer(" ", "-", "#", "").Replace(name) }

package row

import (
	"regexp"
	"slices"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Every column says what it means and who has it; a name is used once, and ends with the
// unit, if there is one.
func TestColumnsDescribeThemselves(t *testing.T) {
	unit := regexp.MustCompile(`(^|_)(pages|bytes|ns|calls|kib|ms|seconds)$`)
	names, headers := map[string]bool{}, map[string]bool{}
	for _, c := range Columns() {
		if names[c.Name] || names[c.Former] || c.Header != "" && headers[c.Header] {
			t.Errorf("%s or its heading %q stands there twice", c.Name, c.Header)
		}
		names[c.Name], headers[c.Header] = true, true
		want := ""
		if m := unit.FindStringSubmatch(c.Name); m != nil {
			want = m[2]
		}
		if c.Unit != want {
			t.Errorf("%s: unit %q; want %q", c.Name, c.Unit, want)
		}
		if len(c.Help) < 8 || c.Subsystems == 0 || c.Type == "" {
			t.Errorf("%s: %q, %s, %q", c.Name, c.Help, c.Subsystems, c.Type)
		}
		if (c.Header == "") != (c.Width == 0 && c.Least == 0) || (c.Least == 0) != (c.Rank == 0) {
			t.Errorf("%s: heading %q, but width %d, least %d and rank %d", c.Name, c.Header, c.Width, c.Least, c.Rank)
		}
	}
}

func TestFilterOnly(t *testing.T) {
	object := func(kind ledger.Kind, bytes int64) *ledger.Entry {
		return &ledger.Entry{Kind: kind, Event: ledger.Event{Object: &ledger.Object{FurtherBytes: bytes}}}
	}
	for name, c := range map[string]struct {
		entry *ledger.Entry
		want  []string
	}{
		"perf buffer":            {&ledger.Entry{}, []string{"perf"}},
		"BPF object":             {object(ledger.Charge, 0), []string{"bpf"}},
		"BPF object with a bill": {object(ledger.Charge, 9), []string{"bpf", "memcg"}},
		"growth":                 {object(ledger.Growth, 9), []string{"memcg"}},
		"io_uring":               {&ledger.Entry{Event: ledger.Event{Charger: "io_uring"}}, []string{"others"}},
	} {
		var shown []string
		for _, only := range Watchable() {
			if f := (Filter{Only: []string{only}}); f.Shows(c.entry) {
				shown = append(shown, only)
			}
		}
		if all := (Filter{}); !slices.Equal(shown, c.want) || !all.Shows(c.entry) {
			t.Errorf("%s: shown by --only %q; want %q", name, shown, c.want)
		}
	}
}

// A pod, a namespace or a container is wanted for who calls, and for who pays.
func TestFilterContainers(t *testing.T) {
	nginx := container.Names{Pod: "web-1", Namespace: "prod", Container: "nginx"}
	db := container.Names{Container: "db"}
	entry := func(caller, payer, later, limit container.Names) *ledger.Entry {
		o := &ledger.Object{MapNames: later, LimitNames: limit}
		o.Payers[1].Names = payer
		return &ledger.Entry{Event: ledger.Event{Caller: ledger.Caller{Names: caller}, Object: o}}
	}
	none := container.Names{}
	web, dbs := cgroup.Wanted{Pods: []string{"web-1"}}, cgroup.Wanted{Containers: []string{"db"}}
	for name, c := range map[string]struct {
		wanted cgroup.Wanted
		entry  *ledger.Entry
		want   bool
	}{
		"all":               {cgroup.Wanted{}, entry(none, none, none, none), true},
		"the caller":        {web, entry(nginx, none, none, none), true},
		"who pays":          {web, entry(db, nginx, none, none), true},
		"who pays later":    {web, entry(none, none, nginx, none), true},
		"who refused":       {web, entry(none, none, none, nginx), true},
		"another":           {web, entry(db, db, db, db), false},
		"a container":       {dbs, entry(db, none, none, none), true},
		"of no pod":         {cgroup.Wanted{Namespaces: []string{"prod"}}, entry(db, none, none, none), false},
		"of both":           {cgroup.Wanted{Namespaces: []string{"prod"}, Containers: []string{"nginx"}}, entry(nginx, none, none, none), true},
		"of one of both":    {cgroup.Wanted{Namespaces: []string{"test"}, Containers: []string{"nginx"}}, entry(nginx, none, none, none), false},
		"a perf buffer's":   {web, &ledger.Entry{Event: ledger.Event{Caller: ledger.Caller{Names: nginx}}}, true},
		"another's":         {web, &ledger.Entry{}, false},
		"a uid in the path": {cgroup.Wanted{Pods: []string{"33d556edd3ae8ef21980288cef77ae8b"}}, &ledger.Entry{Event: ledger.Event{Caller: ledger.Caller{Cgroup: "/kubepods/pod33d556edd3ae8ef21980288cef77ae8b"}}}, true},
	} {
		if f := (Filter{Containers: c.wanted}); f.Shows(c.entry) != c.want {
			t.Errorf("%s: shown: %v; want %v", name, !c.want, c.want)
		}
	}
}

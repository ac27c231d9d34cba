package objects

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/bpfobj"
)

// before is a listing of an hour ago: flows was smaller, gone was not there, and id 5 and 6
// still were.
func before() *bpfobj.Listing {
	l := listing()
	l.Objects[0].Memlock = 65536
	l.Objects[1] = bpfobj.Object{Kind: bpfobj.KindMap, ID: 5, Type: "hash", Name: "was", Memlock: 8192, Cgroup: "/a/b", CgroupKnown: true,
		Orphan: []bpfobj.Reason{bpfobj.PinAlone}}
	l.Objects = append(l.Objects, bpfobj.Object{Kind: bpfobj.KindProgram, ID: 6, Type: "xdp", Name: "old", Memlock: 4096})
	return l
}

// earlier writes a listing as JSON lines and reads it back.
func earlier(t *testing.T, l *bpfobj.Listing, edit ...string) *Earlier {
	t.Helper()
	var out strings.Builder
	if err := Write(&out, l, Options{JSON: true, Sort: "id"}); err != nil {
		t.Fatal(err)
	}
	e, err := ReadEarlier("before.jsonl", strings.NewReader(strings.NewReplacer(edit...).Replace(out.String())))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSinceTable(t *testing.T) {
	want := `CHANGE GROWTH   KIND ID TYPE  NAME  KEY VALUE ENTRIES FLAGS MEMLOCK CHARGED UID CGROUP       USES          PINNED                           HOLDERS
gone   -8 KiB   map   5 hash  was     0     0       0   0x0   8 KiB             /a/b
grown  +320 KiB map   7 hash  flows   8    16    4096   0x1 384 KiB             /a/b         prog 1,2,3 +2 /sys/fs/bpf/flows /run/bpf/flows 10 agent ×2 11 \x1b[31mred
new    +4 KiB   map   9 array gone    4     4       1   0x0   4 KiB             gone (id 77)               /sys/fs/bpf/old/gone
gone   -4 KiB   prog  6 xdp   old                             4 KiB
`
	opts := Options{Since: earlier(t, before())}
	got := strings.ReplaceAll(trimmed(maps(t, opts)), "  -", " -")
	if diff := cmp.Diff(columnsApart(want), columnsApart(got)); diff != "" {
		t.Errorf("want - got +\n%s\n%s", diff, got)
	}
	notes := Notes(listing(), opts)
	if got, want := notes[len(notes)-1], "since before.jsonl: 1 new (+4 KiB), 2 gone (-12 KiB), 1 grown (+320 KiB)"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

// columnsApart makes one space of all.
func columnsApart(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestSince(t *testing.T) {
	for name, c := range map[string]struct {
		before []string // edits of the earlier listing
		now    func(l *bpfobj.Listing)
		opts   Options
		want   string
		note   string // "" : none but of the regime and the sum
	}{
		"the same boot":          {want: "gone map 5, grown map 7, new map 9, gone prog 6"},
		"another boot":           {before: []string{"boot-2", "boot-1"}, want: "gone map 5, new map 7, gone map 7, new map 9, new prog 1, gone prog 1, gone prog 6", note: "of another boot, or of another machine"},
		"an older pinwatch's":    {before: []string{`,"boot_id":"boot-2"`, ""}, want: "gone map 5, grown map 7, new map 9, gone prog 6", note: "cannot be told"},
		"no boot id here":        {now: func(l *bpfobj.Listing) { l.BootID = "" }, want: "gone map 5, grown map 7, new map 9, gone prog 6", note: "cannot be told"},
		"version 1":              {before: []string{`"v":2`, `"v":1`, `"kind":"prog"`, `"kind":"program"`}, want: "gone map 5, grown map 7, new map 9, gone prog 6"},
		"an id given anew":       {before: []string{`"id":7,"type":"hash"`, `"id":7,"type":"ringbuf"`}, want: "gone map 5, new map 7, gone map 7, new map 9, gone prog 6"},
		"no name is not another": {before: []string{`"name":"flows"`, `"name":""`}, want: "gone map 5, grown map 7, new map 9, gone prog 6"},
		"not all are listed":     {now: func(l *bpfobj.Listing) { l.Complete = false }, want: "grown map 7, new map 9", note: "what is gone is not known"},
		"nothing changed":        {before: []string{"", ""}, now: func(l *bpfobj.Listing) { *l = *before() }, want: ""},
		"filters choose":         {opts: Options{Orphans: true}, want: "gone map 5, new map 9"},
		"by cgroup":              {opts: Options{Cgroup: "/a/b"}, want: "gone map 5, grown map 7"},
	} {
		l := listing()
		if c.now != nil {
			c.now(l)
		}
		opts := c.opts
		opts.Sort, opts.Since = "id", earlier(t, before(), c.before...)
		var got []string
		for _, o := range opts.choose(l) {
			got = append(got, o.change+" "+o.Kind+" "+string(rune('0'+o.ID)))
		}
		if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: want - got +\n%s", name, diff)
		}
		if notes := opts.Since.notes(l, nil); !strings.Contains(strings.Join(notes, "\n"), c.note) || c.note == "" && len(notes) != 1 {
			t.Errorf("%s: %q; want %q", name, notes, c.note)
		}
	}
}

func TestSinceJSON(t *testing.T) {
	out := maps(t, Options{JSON: true, Since: earlier(t, before()), Names: []string{"flows"}})
	var got struct {
		Version int    `json:"v"`
		Change  string `json:"change"`
		Growth  int64  `json:"memlock_change_bytes"`
		ID      int    `json:"id"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Version != 2 || got.Change != "grown" || got.Growth != 327680 || got.ID != 7 {
		t.Errorf("%s", out)
	}
	// A difference is no listing to compare with.
	if _, err := ReadEarlier("diff.jsonl", strings.NewReader(out)); err == nil || !strings.Contains(err.Error(), "diff.jsonl: line 1: a difference") {
		t.Error(err)
	}
}

// An object that is gone is written as it was.
func TestGone(t *testing.T) {
	var was, gone strings.Builder
	if err := Write(&was, listing(), Options{JSON: true}); err != nil {
		t.Fatal(err)
	}
	opts := Options{JSON: true, Since: earlier(t, listing())}
	if err := Write(&gone, &bpfobj.Listing{Complete: true, BootID: "boot-2"}, opts); err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`"change":"gone","memlock_change_bytes":-[0-9]+,`).ReplaceAllString(gone.String(), "")
	if diff := cmp.Diff(was.String(), got); diff != "" {
		t.Errorf("was - gone +\n%s", diff)
	}
}

// What is not a listing is said, and where.
func TestReadEarlier(t *testing.T) {
	const line = `{"v":2,"kind":"map","id":1,"type":"hash","boot_id":"a"}`
	for in, want := range map[string]string{
		"":                             "",
		line:                           "",
		line + "\n" + line[:20]:        "x: line 2: want what pinwatch maps --json writes: ",
		`{"v":3,"kind":"map","id":1}`:  "x: line 1: want a map or a program",
		`{"v":2,"kind":"link","id":1}`: "x: line 1: want a map or a program",
		`{"v":2,"kind":"map"}`:         "x: line 1: want a map or a program",
		`{"v":2,"kind":"map","id":-1}`: "x: line 1: ",
		`[]`:                           "x: line 1: ",
		line + "\n" + `{"v":2,"kind":"map","id":2,"boot_id":"b"}`: "x: line 2: of another boot",
	} {
		_, err := ReadEarlier("x", strings.NewReader(in))
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v; want %q", in, err, want)
		}
	}
}

// Whatever a file holds: an error or a listing that can be compared.
func FuzzReadEarlier(f *testing.F) {
	var out strings.Builder
	if err := Write(&out, before(), Options{JSON: true, Sort: "id"}); err != nil {
		f.Fatal(err)
	}
	f.Add(out.String())
	f.Add(`{"v":1,"kind":"program","id":4294967295,"memlock_bytes":-9223372036854775808,"name":"\u001b[2J"}`)
	f.Fuzz(func(t *testing.T, in string) {
		e, err := ReadEarlier("x", strings.NewReader(in))
		if err != nil {
			return
		}
		opts := Options{Since: e, Sort: "memlock"}
		var table strings.Builder
		if err := Write(&table, listing(), opts); err != nil {
			t.Fatal(err)
		}
		if text := table.String() + strings.Join(Notes(listing(), opts), ""); strings.ContainsAny(text, "\x1b\r\x07") {
			t.Errorf("%q", text)
		}
	})
}

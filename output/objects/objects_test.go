package objects

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

func listing() *bpfobj.Listing {
	return &bpfobj.Listing{
		Accounting: kernel.BPFMemcg, Complete: true, BootID: "boot-2",
		Objects: []bpfobj.Object{
			{Kind: bpfobj.KindMap, ID: 7, Type: "hash", Name: "flows", KeySize: 8, ValueSize: 16, MaxEntries: 4096, Flags: 1, Memlock: 393216,
				Accounting: kernel.BPFMemcg, Cgroup: "/a/b", CgroupKnown: true, CgroupID: 42, Refs: []uint32{1, 2, 3, 4, 5},
				Pinned:  []string{"/sys/fs/bpf/flows", "/run/bpf/flows"},
				Holders: []bpfobj.Holder{{PID: 10, Comm: "agent", FDs: 2, Cgroup: "/a"}, {PID: 11, Comm: "\x1b[31mred", FDs: 1, Cgroup: "/c"}}},
			{Kind: bpfobj.KindMap, ID: 9, Type: "array", Name: "gone", KeySize: 4, ValueSize: 4, MaxEntries: 1, Memlock: 4096, Accounting: kernel.BPFMemcg, CgroupID: 77,
				PayerGone: true, PayerGoneKnown: true, References: 1, ReferencesKnown: true, Pinned: []string{"/sys/fs/bpf/old/gone"},
				Orphan: []bpfobj.Reason{bpfobj.PinAlone, bpfobj.PayerGone}},
			{Kind: bpfobj.KindProgram, ID: 1, Type: "kprobe", Name: "entry", Memlock: 8192, Accounting: kernel.BPFMemcg,
				UID: 1000, UIDKnown: true, Charged: 12288, ChargedKnown: true, Refs: []uint32{7}, Links: []uint32{3}},
		},
	}
}

func maps(t *testing.T, opts Options) string {
	t.Helper()
	var out strings.Builder
	if opts.Sort == "" {
		opts.Sort = "id"
	}
	if err := opts.Check(); err != nil {
		t.Fatal(err)
	}
	if err := Write(&out, listing(), opts); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// trimmed is a table without the spaces at the ends of its lines.
func trimmed(table string) string {
	var got strings.Builder
	for line := range strings.Lines(table) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return got.String()
}

func TestMapsTable(t *testing.T) {
	want := `KIND ID TYPE   NAME  KEY VALUE ENTRIES FLAGS MEMLOCK CHARGED  UID CGROUP       USES          PINNED                           HOLDERS
map   7 hash   flows   8    16    4096   0x1 384 KiB              /a/b         prog 1,2,3 +2 /sys/fs/bpf/flows /run/bpf/flows 10 agent ×2 11 \x1b[31mred
map   9 array  gone    4     4       1   0x0   4 KiB              gone (id 77)               /sys/fs/bpf/old/gone
prog  1 kprobe entry                           8 KiB  12 KiB 1000              map 7                                          link 3
`
	if diff := cmp.Diff(want, trimmed(maps(t, Options{}))); diff != "" {
		t.Errorf("want - got +\n%s", diff)
	}
	if !strings.Contains(maps(t, Options{Bytes: true}), " 393216 ") {
		t.Error("no plain bytes")
	}
}

// Every field is there whatever the object, and of one type.
func TestMapsJSON(t *testing.T) {
	want := map[string]any{
		"v": 2.0, "kind": "map", "id": 7.0, "type": "hash", "name": "flows", "key_size_bytes": 8.0, "value_size_bytes": 16.0,
		"max_entries": 4096.0, "flags": 1.0, "memlock_bytes": 393216.0, "charged_bytes": 0.0, "charged_known": false, "regime": "memcg",
		"uid": 0.0, "uid_known": false, "cgroup": "/a/b", "cgroup_id": 42.0, "cgroup_known": true, "container_id": "", "pod_uid": "",
		"pod_name": "", "pod_namespace": "", "container_name": "",
		"uses": []any{1.0, 2.0, 3.0, 4.0, 5.0}, "links": []any{}, "pinned": []any{"/sys/fs/bpf/flows", "/run/bpf/flows"},
		"holders": []any{
			map[string]any{"pid": 10.0, "comm": "agent", "fds": 2.0, "cgroup": "/a", "pod_name": "", "pod_namespace": "", "container_name": "", "uid": 0.0, "uid_known": false},
			map[string]any{"pid": 11.0, "comm": "\x1b[31mred", "fds": 1.0, "cgroup": "/c", "pod_name": "", "pod_namespace": "", "container_name": "", "uid": 0.0, "uid_known": false},
		},
		"references": 0.0, "references_known": false, "payer_gone": false, "payer_gone_known": false, "orphan": []any{}, "boot_id": "boot-2",
	}
	lines := strings.Split(strings.TrimSpace(maps(t, Options{JSON: true})), "\n")
	for i, line := range lines {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("want - got +\n%s", diff)
			}
		}
		for name := range want {
			if got[name] == nil {
				t.Errorf("line %d has no %s", i+1, name)
			}
		}
		if strings.Contains(line, "\x1b") {
			t.Error("a raw escape")
		}
	}
	if len(lines) != 3 {
		t.Errorf("%d lines", len(lines))
	}
}

func TestMapsChoose(t *testing.T) {
	for name, c := range map[string]struct {
		opts Options
		want []uint32
	}{
		"all":             {Options{Sort: "id"}, []uint32{7, 9, 1}},
		"by memlock":      {Options{Sort: "memlock"}, []uint32{7, 1, 9}},
		"by charged":      {Options{Sort: "charged"}, []uint32{1, 7, 9}},
		"by type":         {Options{Sort: "type"}, []uint32{9, 7, 1}},
		"by name":         {Options{Sort: "name"}, []uint32{1, 7, 9}},
		"type":            {Options{Types: []string{"kprobe", "array"}}, []uint32{9, 1}},
		"name":            {Options{Names: []string{"flows"}}, []uint32{7}},
		"pid":             {Options{PIDs: []int{11}}, []uint32{7}},
		"maps":            {Options{MapsOnly: true}, []uint32{7, 9}},
		"programs":        {Options{ProgramsOnly: true}, []uint32{1}},
		"payer's cgroup":  {Options{Cgroup: "/sys/fs/cgroup/a/b"}, []uint32{7}},
		"holder's cgroup": {Options{Cgroup: "/c"}, []uint32{7}},
		"no cgroup":       {Options{Cgroup: "/d"}, nil},
		"orphans":         {Options{Orphans: true}, []uint32{9}},
		"orphans by name": {Options{Orphans: true, Names: []string{"flows"}}, nil},
		"gone cgroup":     {Options{Cgroup: "/", Names: []string{"gone"}}, nil},
	} {
		var got []uint32
		for _, o := range c.opts.choose(listing()) {
			got = append(got, o.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: want - got +\n%s", name, diff)
		}
	}
}

func TestMapsNotes(t *testing.T) {
	l := listing()
	l.Notes = []string{"something else"}
	notes := strings.Join(Notes(l, Options{}), "\n")
	for _, want := range []string{"memory cgroups", "CHARGED is empty", "something else"} {
		if strings.Count(notes, want) != 1 {
			t.Errorf("%q is not said once:\n%s", want, notes)
		}
	}
	for i := range l.Objects {
		l.Objects[i].ChargedKnown = true
	}
	if strings.Contains(strings.Join(Notes(l, Options{}), "\n"), "CHARGED") {
		t.Error("a column that is full is explained")
	}
}

package objects

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

const pod = "/kubepods/burstable/pod3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b"

// summed has two maps of a pod, one that the root pays for, and a program.
func summed() *bpfobj.Listing {
	paid := func(id uint32, memlock int64, cgroup string, pins ...string) bpfobj.Object {
		return bpfobj.Object{Kind: bpfobj.KindMap, ID: id, Type: "hash", Memlock: memlock, Accounting: kernel.BPFMemcg,
			Cgroup: cgroup, CgroupID: uint64(id), CgroupKnown: true, Pinned: pins}
	}
	l := &bpfobj.Listing{Accounting: kernel.BPFMemcg, Complete: true, BootID: "b", Objects: []bpfobj.Object{
		paid(1, 4096, pod+"/a", "/sys/fs/bpf/x/1", "/sys/fs/bpf/y/1"),
		paid(2, 8192, pod+"/b", "/sys/fs/bpf/x/2", "/sys/fs/bpf/x/3"),
		paid(3, 65536, "/"),
		{Kind: bpfobj.KindMap, ID: 4, Type: "array", Memlock: 1024, Accounting: kernel.BPFMemcg, CgroupID: 9, PayerGone: true, PayerGoneKnown: true,
			Orphan: []bpfobj.Reason{bpfobj.PayerGone}},
		{Kind: bpfobj.KindProgram, ID: 1, Type: "xdp", Memlock: 4096, Accounting: kernel.BPFMemcg, UIDKnown: true, Charged: 5000, ChargedKnown: true},
	}}
	return l
}

func sums(t *testing.T, l *bpfobj.Listing, opts Options) string {
	t.Helper()
	opts.Sort = "id"
	var out strings.Builder
	if err := Write(&out, l, opts); err != nil {
		t.Fatal(err)
	}
	return trimmed(out.String())
}

func TestSums(t *testing.T) {
	for by, want := range map[string]string{
		"cgroup": `CGROUP                                                            MAPS PROGS MEMLOCK CHARGED UNPAID PAYER_UNKNOWN ORPHANS
/                                                                    1     0  64 KiB         64 KiB           0 B       0
` + pod + `/b    1     0   8 KiB            0 B           0 B       0
not known                                                            0     1   4 KiB 4.9 KiB    0 B         4 KiB       0
` + pod + `/a    1     0   4 KiB            0 B           0 B       0
gone (id 9)                                                          1     0   1 KiB            0 B           0 B       1
`,
		"pod": `POD                                  MAPS PROGS MEMLOCK CHARGED UNPAID PAYER_UNKNOWN ORPHANS
no pod                                  1     0  64 KiB         64 KiB           0 B       0
3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b    2     0  12 KiB            0 B           0 B       0
not known                               1     1   5 KiB 4.9 KiB    0 B         4 KiB       1
`,
		"pin": `PINNED_BELOW  MAPS PROGS  MEMLOCK CHARGED UNPAID PAYER_UNKNOWN ORPHANS
not pinned       2     1   69 KiB 4.9 KiB 64 KiB         4 KiB       1
/sys/fs/bpf/x    2     0   12 KiB            0 B           0 B       0
/sys/fs/bpf/y    1     0    4 KiB            0 B           0 B       0
`,
		"type": `TYPE  MAPS PROGS MEMLOCK CHARGED UNPAID PAYER_UNKNOWN ORPHANS
hash     3     0  76 KiB         64 KiB           0 B       0
xdp      0     1   4 KiB 4.9 KiB    0 B         4 KiB       0
array    1     0   1 KiB            0 B           0 B       1
`,
	} {
		got := sums(t, summed(), Options{By: by})
		if diff := cmp.Diff(columnsApart(want), columnsApart(got)); diff != "" {
			t.Errorf("%s: want - got +\n%s\n%s", by, diff, got)
		}
	}
}

// What cannot be known has a group of its own, and is not said to be unpaid.
func TestSumsUnknown(t *testing.T) {
	l := summed()
	l.Complete = false // pins are not known
	if got := sums(t, l, Options{By: "pin", Types: []string{"xdp"}}); !strings.Contains(got, "not known") {
		t.Errorf("%s", got)
	}
	for accounting, want := range map[kernel.BPFAccounting][2]int64{ // unpaid, and the payer not known
		kernel.BPFMemcg:   {65536, 4096},
		kernel.BPFRlimit:  {0, 4096 + 8192 + 65536 + 1024}, // the program's loader pays
		kernel.BPFNone:    {4096 + 8192 + 65536 + 1024 + 4096, 0},
		kernel.BPFUnknown: {0, 4096 + 8192 + 65536 + 1024 + 4096},
	} {
		l := summed()
		l.Accounting = accounting
		opts := Options{By: "cgroup"}
		var got [2]int64
		for _, s := range opts.sums(l, opts.choose(l)) {
			got[0] += s.unpaid
			got[1] += s.payerUnknown
		}
		if got != want {
			t.Errorf("%s: %d; want %d", accounting, got, want)
		}
	}
}

func TestSumsJSON(t *testing.T) {
	line, _, _ := strings.Cut(sums(t, summed(), Options{By: "pod", JSON: true, Cgroup: pod}), "\n")
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"v": 2.0, "kind": "sum", "by": "pod", "group": "3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b", "group_known": true, "label": "",
		"objects": 2.0, "maps": 2.0, "progs": 0.0, "memlock_bytes": 12288.0, "charged_bytes": 0.0, "charged_objects": 0.0,
		"unpaid_bytes": 0.0, "payer_unknown_bytes": 0.0, "orphans": 0.0, "boot_id": "b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want - got +\n%s", diff)
	}
}

func TestOrphanColumn(t *testing.T) {
	got := maps(t, Options{Orphans: true})
	if !strings.Contains(got, "ORPHAN") || !strings.Contains(got, "a pin alone holds it; payer's cgroup is gone") || strings.Contains(got, "flows") {
		t.Errorf("%s", got)
	}
	l := listing()
	l.OrphanNotes = []string{"not known of some"}
	if notes := strings.Join(Notes(l, Options{}), "\n"); strings.Contains(notes, "not known of some") {
		t.Errorf("said unasked: %s", notes)
	}
	if notes := strings.Join(Notes(l, Options{Orphans: true}), "\n"); !strings.Contains(notes, "not known of some") {
		t.Errorf("not said: %s", notes)
	}
}

//go:build guest

package bpfobj_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/self"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

var guests = guesttest.Guests{Tools: []string{"bpftool"}}

func TestMain(m *testing.M) {
	child.Init(kernel.Children())
	os.Exit(guests.Main(m))
}

// shown is an object as both pinwatch and bpftool show it.
type shown struct {
	ID, Memlock            int64
	Type, Name             string
	Key, Value, Max, Flags int64
	Maps                   []int64
}

// bpftool's own view of a map or a program.
type bpftool struct {
	ID      int64   `json:"id"`
	Type    string  `json:"type"`
	Name    string  `json:"name"`
	Flags   int64   `json:"flags"`
	Key     int64   `json:"bytes_key"`
	Value   int64   `json:"bytes_value"`
	Max     int64   `json:"max_entries"`
	Memlock int64   `json:"bytes_memlock"`
	MapIDs  []int64 `json:"map_ids"`
}

// The list must be bpftool's, object by object; who pays must be who made the
// map; holders and pins those that the workload made.
func TestMapsAgreeWithBPFTool(t *testing.T) { guests.Test(t, guesttest.Newest, mapsAgree) }

func mapsAgree(t *testing.T, k guesttest.Kernel) {
	types := []string{"array", "percpu-array", "hash", "hash-noprealloc", "lru", "lpm-trie", "ringbuf", "stack-trace", "array-of-maps", "queue"}
	made := makeMaps(t, types)
	left := leaveOrphans(t)
	// A trace is the source of programs and links.
	guesttest.Command(t, "pinwatch", "trace").Start().WaitFor("watching")

	listing, err := bpfobj.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("bpftool", func(t *testing.T) {
		tool := guesttest.LookPath(t, "bpftool")
		compare(t, listing.Objects, bpfobj.KindMap, show(t, tool, "map"))
		compare(t, listing.Objects, bpfobj.KindProgram, show(t, tool, "prog"))
	})

	regime := kernel.BPFMemcg
	if k.Before("5.11") {
		regime = kernel.BPFRlimit
	}
	if len(made) != len(types) {
		t.Errorf("the workload made %d maps; want %d", len(made), len(types))
	}
	for _, step := range made {
		checkMade(t, listing.Objects, step, regime)
	}
	checkOrphans(t, listing, left, regime)
	t.Run("asked", func(t *testing.T) { saysTheSame(t, listing.Objects, regime) })
	checkPrograms(t, listing.Objects, k)
	commandLists(t, listing.Objects)
}

// saysTheSame asks by the kprobe, as it is done before 5.8, who pays for the maps: it is
// whom the iterator names.
func saysTheSame(t *testing.T, objects []bpfobj.Object, regime kernel.BPFAccounting) {
	payers, accounting, err := bpfobj.AskedPayers(objects)
	if err != nil {
		t.Fatal(err)
	}
	if accounting != regime {
		t.Errorf("%s; want %s", accounting, regime)
	}
	known := 0
	for _, o := range objects {
		payer, asked := payers[o.ID]
		if o.Kind != bpfobj.KindMap || !asked {
			continue
		}
		want := o.CgroupID
		if regime == kernel.BPFRlimit {
			want = uint64(o.UID)
		}
		if payer != want {
			t.Errorf("map %d (%s) is paid by %d; the iterator says %d", o.ID, o.Name, payer, want)
		}
		known++
	}
	if known < 10 {
		t.Errorf("%d maps have a known payer", known)
	}
}

// makeMaps makes a map of each type in a cgroup as a user, and holds them until the test
// ends.
func makeMaps(t *testing.T, types []string) (made []workload.BPFStep) {
	t.Helper()
	payer := guesttest.Cgroup(t, "payer")
	t.Cleanup(func() {
		for _, kind := range types {
			os.Remove("/sys/fs/bpf/" + kind)
		}
	})
	var holders []*guesttest.Cmd
	for _, kind := range types {
		holders = append(holders, guesttest.Command(t, "pinwatch", "workload", "bpf-maps", "--type", kind, "--name", "load_of_a_test",
			"--uid", "2000", "--memlock-kib", "65536", "--cgroup", payer, "--pin", "/sys/fs/bpf/"+kind, "--hold", "10m", "--json").Start())
	}
	for _, holder := range holders {
		holder.WaitFor(`"created"`)
		for line := range strings.Lines(holder.Said()) {
			var step workload.BPFStep
			if err := json.Unmarshal([]byte(line), &step); err != nil {
				t.Fatalf("%s: %q: %v", holder, line, err)
			}
			switch step.Step {
			case "create":
				made = append(made, step)
			case "refused":
				t.Errorf("%s: %s", step.Type, step.ErrnoName)
			}
		}
	}
	return made
}

// show is what bpftool lists.
func show(t *testing.T, tool, kind string) (list []bpftool) {
	t.Helper()
	out := guesttest.Command(t, tool, "-j", kind, "show").Run()
	if out.Code != 0 {
		t.Fatalf("bpftool: exit %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	if err := json.Unmarshal([]byte(out.Stdout), &list); err != nil {
		t.Fatalf("bpftool: %v: %.200s", err, out.Stdout)
	}
	return list
}

// commandLists wants pinwatch maps to list the same objects, and to tell a user without
// capabilities what is missing.
func commandLists(t *testing.T, listed []bpfobj.Object) {
	t.Helper()
	out := guesttest.Command(t, "pinwatch", "maps", "--json").Run()
	var want, got strings.Builder
	for _, o := range listed {
		fmt.Fprintln(&want, o.Kind, o.ID, o.Memlock, o.UID, o.Cgroup)
	}
	for line := range strings.Lines(out.Stdout) {
		var o struct {
			Kind    string `json:"kind"`
			ID      uint32 `json:"id"`
			Memlock int64  `json:"memlock_bytes"`
			UID     uint32 `json:"uid"`
			Cgroup  string `json:"cgroup"`
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		fmt.Fprintln(&got, o.Kind, o.ID, o.Memlock, o.UID, o.Cgroup)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" || out.Code != 0 {
		t.Errorf("pinwatch maps: exit %d, want - got +\n%s\n%s", out.Code, diff, out.Stderr)
	}

	before := filepath.Join(t.TempDir(), "before.jsonl")
	if err := os.WriteFile(before, []byte(out.Stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := guesttest.Command(t, "pinwatch", "maps", "--json", "--since", before).Run(); out.Stdout != "" || !strings.Contains(out.Stderr, "before.jsonl: 0 new (0 B), 0 gone (0 B), 0 grown (0 B)") {
		t.Errorf("pinwatch maps --since: exit %d, %s%s; nothing changed", out.Code, out.Stdout, out.Stderr)
	}

	user := guesttest.Command(t, "pinwatch", "maps", "--json")
	user.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 3000, Gid: 3000}}
	out = user.Run()
	if strings.TrimSpace(out.Stdout) != "" || out.Code != 0 ||
		!strings.Contains(out.Stderr, "needs CAP_SYS_ADMIN") && !strings.Contains(out.Stderr, "CAP_SYS_ADMIN, which is missing") {
		t.Errorf("a user without privileges: exit %d, %q, stderr %s", out.Code, out.Stdout, out.Stderr)
	}
}

// checkMade looks at a map that the workload made.
func checkMade(t *testing.T, listed []bpfobj.Object, step workload.BPFStep, regime kernel.BPFAccounting) {
	t.Helper()
	i := slices.IndexFunc(listed, func(o bpfobj.Object) bool { return o.Kind == bpfobj.KindMap && o.ID == step.ID })
	if i < 0 {
		t.Errorf("%s: map %d is not listed", step.Type, step.ID)
		return
	}
	o := listed[i]
	if o.Memlock != step.Memlock || o.Name != step.Name || o.Accounting != regime {
		t.Errorf("%s: %+v; the workload saw %+v, the regime is %s", step.Type, o, step, regime)
	}
	if regime == kernel.BPFRlimit && (!o.UIDKnown || o.UID != 2000 || o.CgroupKnown) {
		t.Errorf("%s: uid %d (%v), cgroup %q (%v); the payer is uid 2000", step.Type, o.UID, o.UIDKnown, o.Cgroup, o.CgroupKnown)
	}
	if regime == kernel.BPFMemcg && (!o.CgroupKnown || o.Cgroup != "/payer" || o.UIDKnown) {
		t.Errorf("%s: cgroup %q (%v), uid %d (%v); the payer is /payer", step.Type, o.Cgroup, o.CgroupKnown, o.UID, o.UIDKnown)
	}
	if diff := cmp.Diff([]string{"/sys/fs/bpf/" + step.Type}, o.Pinned); diff != "" {
		t.Errorf("%s: pinned: %s", step.Type, diff)
	}
	if len(o.Orphan) > 0 || !o.ReferencesKnown || o.References != 2 {
		t.Errorf("%s: an orphan for %s, %d references (%v); its payer has it open, and it is pinned", step.Type, o.Orphan, o.References, o.ReferencesKnown)
	}
	if len(o.Holders) != 1 || o.Holders[0].FDs != 1 || o.Holders[0].Comm != "pinwatch" || o.Holders[0].Cgroup != "/payer" {
		t.Errorf("%s: holders %+v; want one pinwatch in /payer", step.Type, o.Holders)
	}
}

// orphan is an object that was left behind, and the cgroup that it was charged to.
type orphan struct{ name, pin, cgroup string }

// leaveOrphans leaves a map to its pin, and removes the cgroup that it was charged to; one
// to this test, which is neither its payer nor in its payer's cgroup, which is a container of
// containerd's; and a program to its pin.
func leaveOrphans(t *testing.T) []orphan {
	t.Helper()
	id := strings.Repeat("0123456789abcdef", 4)
	left := []orphan{{"left_alone", "/sys/fs/bpf/left_alone", "left_alone"}, {"left_to_other", "/sys/fs/bpf/left_to_other", id},
		{"left_alone", "/sys/fs/bpf/left_program", ""}}
	bundle := "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundle+"/config.json", []byte(`{"annotations":{"io.kubernetes.cri.sandbox-namespace":"prod","io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.container-name":"nginx"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, o := range left[:2] {
		payer := "/sys/fs/cgroup/" + o.cgroup
		if out := guesttest.Command(t, "pinwatch", "workload", "bpf-maps", "--type", "array", "--name", o.name, "--uid", "2000",
			"--memlock-kib", "65536", "--cgroup", payer, "--pin", o.pin).Run(); out.Code != 0 {
			t.Fatalf("%s: exit %d, %s", o.name, out.Code, out.Stderr)
		}
		t.Cleanup(func() { os.Remove(o.pin); os.Remove(payer) })
	}
	if err := os.Remove("/sys/fs/cgroup/left_alone"); err != nil {
		t.Fatal(err)
	}
	other, err := ebpf.LoadPinnedMap(left[1].pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "left_alone", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Pin(left[2].pin); err != nil {
		t.Fatal(err)
	}
	program.Close()
	t.Cleanup(func() { other.Close(); os.Remove(left[2].pin) })
	return left
}

// checkOrphans wants each of them called one for what was done to it, and no other.
func checkOrphans(t *testing.T, listing *bpfobj.Listing, left []orphan, regime kernel.BPFAccounting) {
	t.Helper()
	want := map[string][]bpfobj.Reason{left[0].pin: {bpfobj.PinAlone}, left[1].pin: {bpfobj.PayerNotHolder}, left[2].pin: {bpfobj.PinAlone}}
	if regime == kernel.BPFMemcg {
		want[left[0].pin] = append(want[left[0].pin], bpfobj.PayerGone)
	}
	got := map[string][]bpfobj.Reason{}
	for _, o := range listing.Objects {
		if o.Name == left[1].name && regime == kernel.BPFMemcg && o.Names != (container.Names{Pod: "web-1", Namespace: "prod", Container: "nginx"}) {
			t.Errorf("%s is paid by %+v, cgroup %s", o.Name, o.Names, o.Cgroup)
		}
		// An inner map of the workload is made by root, before the workload is a user's.
		if len(o.Orphan) > 0 && (regime == kernel.BPFMemcg || len(o.Pinned) > 0) {
			got[strings.Join(o.Pinned, " ")] = o.Orphan
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("orphans: want - got +\n%s\n%s", diff, strings.Join(listing.OrphanNotes, "\n"))
	}
}

// checkPrograms looks at those of the trace: held by a process and by links.
func checkPrograms(t *testing.T, listed []bpfobj.Object, k guesttest.Kernel) {
	t.Helper()
	programs, linked := 0, 0
	for _, o := range listed {
		if o.Kind != bpfobj.KindProgram || len(o.Pinned) > 0 {
			continue
		}
		programs++
		if len(o.Links) > 0 {
			linked++
		}
		// The library tells who loaded a program only if it uses maps. The trace does so as a
		// user of its own.
		if !o.UIDKnown && len(o.Refs) > 0 || o.UIDKnown && !self.Reserved(o.UID) || len(o.Holders) != 1 {
			t.Errorf("program %s: uid %d (%v), holders %+v; the trace holds it, as a user of its own", o.Name, o.UID, o.UIDKnown, o.Holders)
		}
	}
	// Before 5.15 (b89fbfbb854c) a kprobe had no link.
	if programs == 0 || linked == 0 && !k.Before("5.15") {
		t.Errorf("%d programs, %d of them held by links, while a trace runs", programs, linked)
	}
}

// compare holds the objects of a kind against bpftool's.
func compare(t *testing.T, listed []bpfobj.Object, kind string, tool []bpftool) {
	t.Helper()
	got, want := map[int64]shown{}, map[int64]shown{}
	for _, o := range listed {
		if o.Kind != kind {
			continue
		}
		s := shown{ID: int64(o.ID), Memlock: o.Memlock, Type: o.Type, Name: o.Name,
			Key: int64(o.KeySize), Value: int64(o.ValueSize), Max: int64(o.MaxEntries), Flags: int64(o.Flags)}
		if kind == bpfobj.KindProgram {
			for _, id := range o.Refs {
				s.Maps = append(s.Maps, int64(id))
			}
		}
		got[s.ID] = s
	}
	for _, b := range tool {
		slices.Sort(b.MapIDs)
		want[b.ID] = shown{ID: b.ID, Memlock: b.Memlock, Type: b.Type, Name: b.Name, Key: b.Key, Value: b.Value, Max: b.Max, Flags: b.Flags, Maps: b.MapIDs}
	}
	if kind == bpfobj.KindMap && len(want) < 10 {
		t.Errorf("bpftool shows %d maps; the workload makes 10", len(want))
	}
	// bpftool leaves out what is empty.
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%ss: bpftool - pinwatch +\n%s", kind, diff)
	}
}

// A link of somebody else, on functions by kprobe.multi and without cookies: to read its
// fdinfo crashes kernels from 6.17 on. It is listed with its holder all the same.
func TestForeignLinks(t *testing.T) { guests.Test(t, guesttest.Newest, foreignLinks) }

func foreignLinks(t *testing.T, k guesttest.Kernel) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceKprobeMulti, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	l, err := link.KprobeMulti(program, link.KprobeMultiOptions{Symbols: []string{"perf_mmap"}})
	switch {
	case err == nil:
		defer l.Close()
	case !k.Before("6.16") || !errors.Is(err, ebpf.ErrNotSupported): // by then all of Debian's have CONFIG_FPROBE
		t.Fatal(err)
	}
	listing, err := bpfobj.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(listing.Objects, func(o bpfobj.Object) bool { return o.Name == "foreign" })
	if i < 0 {
		t.Fatal("the program is not listed")
	}
	held := 1 // by its own descriptor
	if l != nil {
		held++
	}
	o := listing.Objects[i]
	if len(o.Holders) != 1 || o.Holders[0].PID != os.Getpid() || o.Holders[0].FDs != held || len(o.Links) != held-1 {
		t.Errorf("holders %+v, links %v; want process %d with %d descriptors", o.Holders, o.Links, os.Getpid(), held)
	}
}

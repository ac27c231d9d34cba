//go:build guest

package bpfobj_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// shown is an object as both pinwatch and bpftool show it.
type shown struct {
	ID, Memlock            int64
	Type, Name             string
	Key, Value, Max, Flags int64
	Maps                   []int64
}

// ours are the fields of a JSON line of pinwatch maps that the test compares.
type ours struct {
	Kind    string  `json:"kind"`
	ID      int64   `json:"id"`
	Type    string  `json:"type"`
	Name    string  `json:"name"`
	Key     int64   `json:"key_size_bytes"`
	Value   int64   `json:"value_size_bytes"`
	Max     int64   `json:"max_entries"`
	Flags   int64   `json:"flags"`
	Memlock int64   `json:"memlock_bytes"`
	Regime  string  `json:"regime"`
	UID     int64   `json:"uid"`
	HasUID  bool    `json:"uid_known"`
	Cgroup  string  `json:"cgroup"`
	HasCG   bool    `json:"cgroup_known"`
	Uses    []int64 `json:"uses"`
	Links   []int64 `json:"links"`
	Pinned  []string
	Holders []struct {
		PID    int    `json:"pid"`
		Comm   string `json:"comm"`
		FDs    int    `json:"fds"`
		Cgroup string `json:"cgroup"`
	} `json:"holders"`
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

// script makes maps of all types in a cgroup as a user, and lists them while
// they live, with a trace as the source of programs and links.
const script = `
for type in array percpu-array hash hash-noprealloc lru lpm-trie ringbuf stack-trace array-of-maps queue; do
	pinwatch workload bpf-maps --type $type --name load_of_a_test --uid 2000 --memlock-kib 65536 --cgroup /sys/fs/cgroup/payer \
		--pin /sys/fs/bpf/$type --hold 10m --json > /tmp/$type.json &
done
(pinwatch trace; busybox echo over) > /tmp/trace 2>&1 &
for type in array percpu-array hash hash-noprealloc lru lpm-trie ringbuf stack-trace array-of-maps queue; do
	until busybox grep -q '"created"' /tmp/$type.json; do busybox sleep 0.1; done
done
# Where this kernel cannot be traced, the trace ends by itself.
until busybox grep -qE 'watching|over' /tmp/trace; do busybox sleep 0.1; done
echo = workload
busybox cat /tmp/*.json
echo = pinwatch
pinwatch maps --json
echo = map
bpftool -j map show; echo
echo = prog
bpftool -j prog show; echo
echo = user
pinwatch workload run-as --uid 3000 -- pinwatch maps --json
echo = code
echo $?
`

// The list must be bpftool's, object by object; who pays must be who made the
// map; holders and pins those that the workload made.
func TestMapsAgreeWithBPFTool(t *testing.T) {
	t.Parallel()
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			mapsAgree(t, k)
		})
	}
}

func mapsAgree(t *testing.T, k guesttest.Kernel) {
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	shell, tool := guesttest.Shell(t), guesttest.Tool(t, "bpftool")
	out := guesttest.Run(t, k, func(c *guest.Config) {
		shell(c)
		tool(c)
		c.Files = append(c.Files, file+":script")
		c.Timeout = 100 * time.Second
	}, "workload", "run-as", "--", "sh", "/script")
	if out.Code != 0 {
		t.Fatalf("exit %d: %s", out.Code, out.Stderr)
	}
	sections := sections(out.Stdout)
	listed := decode[ours](t, sections["pinwatch"])
	compare(t, listed, "map", decodeList(t, sections["map"]))
	compare(t, listed, "program", decodeList(t, sections["prog"]))

	regime := "memcg"
	if k.Series == "5.10" { // 5.11 has the change
		regime = "rlimit"
	}
	made := 0
	for _, step := range decode[workload.BPFStep](t, sections["workload"]) {
		if step.Step == "refused" {
			t.Errorf("%s: %s", step.Type, step.ErrnoName)
		}
		if step.Step != "create" {
			continue
		}
		made++
		checkMade(t, listed, step, regime)
	}
	if made != 10 {
		t.Errorf("the workload made %d maps; want 10", made)
	}
	checkPrograms(t, listed, k)

	// Another user, without capabilities, gets told what is missing.
	if strings.TrimSpace(sections["user"]) != "" || !strings.Contains(out.Stderr, "needs CAP_SYS_ADMIN") && !strings.Contains(out.Stderr, "CAP_SYS_ADMIN, which is missing") {
		t.Errorf("a user without privileges: %q, stderr %s", sections["user"], out.Stderr)
	}
	if strings.TrimSpace(sections["code"]) != "0" {
		t.Errorf("a user without privileges: exit %s", sections["code"])
	}
}

// checkMade looks at a map that the workload made.
func checkMade(t *testing.T, listed []ours, step workload.BPFStep, regime string) {
	t.Helper()
	i := slices.IndexFunc(listed, func(o ours) bool { return o.Kind == "map" && o.ID == int64(step.ID) })
	if i < 0 {
		t.Errorf("%s: map %d is not listed", step.Type, step.ID)
		return
	}
	o := listed[i]
	if o.Memlock != step.Memlock || o.Name != step.Name || o.Regime != regime {
		t.Errorf("%s: %+v; the workload saw %+v, the regime is %s", step.Type, o, step, regime)
	}
	if regime == "rlimit" && (!o.HasUID || o.UID != 2000 || o.HasCG) {
		t.Errorf("%s: uid %d (%v), cgroup %q (%v); the payer is uid 2000", step.Type, o.UID, o.HasUID, o.Cgroup, o.HasCG)
	}
	if regime == "memcg" && (!o.HasCG || o.Cgroup != "/payer" || o.HasUID) {
		t.Errorf("%s: cgroup %q (%v), uid %d (%v); the payer is /payer", step.Type, o.Cgroup, o.HasCG, o.UID, o.HasUID)
	}
	if diff := cmp.Diff([]string{"/sys/fs/bpf/" + step.Type}, o.Pinned); diff != "" {
		t.Errorf("%s: pinned: %s", step.Type, diff)
	}
	if len(o.Holders) != 1 || o.Holders[0].FDs != 1 || o.Holders[0].Comm != "pinwatch" || o.Holders[0].Cgroup != "/payer" {
		t.Errorf("%s: holders %+v; want one pinwatch in /payer", step.Type, o.Holders)
	}
}

// checkPrograms looks at those of the trace: held by a process and by links.
func checkPrograms(t *testing.T, listed []ours, k guesttest.Kernel) {
	t.Helper()
	programs, linked := 0, 0
	for _, o := range listed {
		if o.Kind != "program" {
			continue
		}
		programs++
		if len(o.Links) > 0 {
			linked++
		}
		// The library tells who loaded a program only if it uses maps.
		if !o.HasUID && len(o.Uses) > 0 || o.UID != 0 || len(o.Holders) != 1 {
			t.Errorf("program %s: uid %d (%v), holders %+v; root's trace holds it", o.Name, o.UID, o.HasUID, o.Holders)
		}
	}
	if k.Series == "5.10" { // cannot be traced yet
		return
	}
	if programs == 0 || linked == 0 {
		t.Errorf("%d programs, %d of them held by links, while a trace runs", programs, linked)
	}
}

func compare(t *testing.T, listed []ours, kind string, tool []bpftool) {
	t.Helper()
	got, want := map[int64]shown{}, map[int64]shown{}
	for _, o := range listed {
		if o.Kind != kind {
			continue
		}
		s := shown{ID: o.ID, Memlock: o.Memlock, Type: o.Type, Name: o.Name, Key: o.Key, Value: o.Value, Max: o.Max, Flags: o.Flags}
		if kind == "program" {
			s.Maps = o.Uses
		}
		got[o.ID] = s
	}
	for _, b := range tool {
		slices.Sort(b.MapIDs)
		want[b.ID] = shown{ID: b.ID, Memlock: b.Memlock, Type: b.Type, Name: b.Name, Key: b.Key, Value: b.Value, Max: b.Max, Flags: b.Flags, Maps: b.MapIDs}
	}
	if kind == "map" && len(want) < 10 {
		t.Errorf("bpftool shows %d maps; the workload makes 10", len(want))
	}
	// bpftool leaves out what is empty.
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%ss: bpftool - pinwatch +\n%s", kind, diff)
	}
}

// sections parts the output at its "= NAME" lines.
func sections(text string) map[string]string {
	parts := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if title, ok := strings.CutPrefix(line, "= "); ok {
			name = strings.TrimSpace(title)
			continue
		}
		parts[name] += line
	}
	return parts
}

func decode[T any](t *testing.T, lines string) []T {
	t.Helper()
	var all []T
	scanner := bufio.NewScanner(strings.NewReader(lines))
	for scanner.Scan() {
		var v T
		if err := json.Unmarshal(scanner.Bytes(), &v); err != nil {
			t.Fatalf("line %q: %v", scanner.Text(), err)
		}
		all = append(all, v)
	}
	return all
}

func decodeList(t *testing.T, text string) (all []bpftool) {
	t.Helper()
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatalf("bpftool: %v: %s", err, fmt.Sprintf("%.200s", text))
	}
	return all
}

//go:build guest

package tracer_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// objectRow holds the fields of a trace's JSON line about a BPF object.
type objectRow struct {
	Kind        string `json:"kind"`
	Object      string `json:"object"`
	ID          uint32 `json:"object_id"`
	Type        string `json:"object_type_name"`
	Name        string `json:"object_name"`
	Regime      string `json:"regime"`
	Errno       int32  `json:"errno"`
	Verdict     string `json:"verdict"`
	Certainty   string `json:"certainty"`
	CgroupID    uint64 `json:"cgroup_id"`
	Charged     int64  `json:"memcg_charged_bytes"`
	Payer       uint64 `json:"memcg_payer1_cgroup_id"`
	SecondPayer uint64 `json:"memcg_payer2_cgroup_id"`
	PageBytes   int64  `json:"memcg_payer1_page_bytes"`
	Unpaid      int64  `json:"memcg_unpaid_bytes"`
	LimitGroup  uint64 `json:"memcg_limit_cgroup_id"`
	Limit       int64  `json:"memcg_limit_bytes"`
	Pages       int64  `json:"pages"`
	LockLimit   int64  `json:"lock_limit_pages"`
	ChargedUser int64  `json:"charged_user_pages"`
	Lost        uint64 `json:"lost"`
}

// traceObjects traces a shell script in a guest, and returns the rows by the
// objects' names, and what the workloads said in between. A trace that says it lost
// something is made once more: while a process updates a map, a kernel that can be
// preempted skips kprobes on its CPU, the more often the busier this machine is.
func traceObjects(t *testing.T, k guesttest.Kernel, only, script string) (rows map[string][]objectRow, steps map[string][]workload.BPFStep, summary objectRow) {
	t.Helper()
	rows, steps, summary = traceObjectsOnce(t, k, only, script)
	if summary.Lost > 0 {
		t.Logf("%d lost: tracing once more", summary.Lost)
		return traceObjectsOnce(t, k, only, script)
	}
	return rows, steps, summary
}

func traceObjectsOnce(t *testing.T, k guesttest.Kernel, only, script string) (rows map[string][]objectRow, steps map[string][]workload.BPFStep, summary objectRow) {
	t.Helper()
	shell := guesttest.Shell(t)
	out := guesttest.Run(t, k, func(c *guest.Config) { shell(c) },
		"trace", "--only", only, "--json", "--", "sh", "-c", script)
	if out.Code != 0 {
		t.Fatalf("exit %d: %s", out.Code, out.Stderr)
	}
	rows, steps = map[string][]objectRow{}, map[string][]workload.BPFStep{}
	scanner := bufio.NewScanner(strings.NewReader(out.Stdout))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var step workload.BPFStep
		if err := json.Unmarshal(scanner.Bytes(), &step); err == nil && step.Step != "" {
			steps[step.Type] = append(steps[step.Type], step)
			continue
		}
		var r objectRow
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			t.Fatalf("line %q: %v", scanner.Text(), err)
		}
		if r.Kind == "summary" {
			summary = r
			continue
		}
		rows[r.Name] = append(rows[r.Name], r)
	}
	if summary.Kind == "" {
		t.Fatalf("no summary:\n%s\n%s", out.Stdout, out.Stderr)
	}
	return rows, steps, summary
}

// step is the first of a name.
func step(t *testing.T, steps []workload.BPFStep, name string) workload.BPFStep {
	t.Helper()
	for _, s := range steps {
		if s.Step == name {
			return s
		}
	}
	t.Fatalf("no step %q in %d steps: %+v", name, len(steps), steps)
	return workload.BPFStep{}
}

// tolerance is by how much memory.stat may be late. Every CPU keeps up to 64
// pages of changes to itself (MEMCG_CHARGE_BATCH), and it is brought up to date
// when what they have told adds up to 64 pages per CPU. And the rest of a page
// that is charged by the byte.
func tolerance(k guesttest.Kernel) int64 {
	const cpus = 4 // of a guest
	return (2*cpus*64 + 1) * k.PageKiB() << 10
}

// mapType is a type of map, and how the workload makes a large one.
type mapType struct{ kind, size string }

// What cgroups are charged for a map must agree with the cgroup's own
// memory.stat, for every type, over sizes that it cannot overlook.
func TestMemcgAgreesWithMemoryStat(t *testing.T) {
	t.Parallel()
	maps := []mapType{
		{"array", "--entries 4096 --value-size 4096"},
		{"percpu-array", "--entries 500000"},
		{"hash", "--entries 131072 --value-size 64"},
		{"hash-noprealloc", "--entries 100000 --value-size 1000 --update 10000"},
		{"lru", "--entries 131072 --value-size 64"},
		{"lpm-trie", "--entries 100000 --value-size 1000 --update 10000"},
		{"ringbuf", "--entries 16777216"},
		{"stack-trace", "--entries 16384"},
		{"array-of-maps", "--entries 2000000"},
		{"task-storage", "--value-size 1000 --update 1 --count 200"},
	}
	if !guesttest.All() { // one that is charged at once, by the CPU, by and by, mapped, and to others
		maps = slices.DeleteFunc(maps, func(m mapType) bool {
			return !slices.Contains([]string{"array", "percpu-array", "hash-noprealloc", "ringbuf", "task-storage"}, m.kind)
		})
	}
	var script strings.Builder
	for _, m := range maps {
		// While one process updates maps, kernels that can be preempted skip kprobes on
		// its CPU (and pinwatch counts that as lost): the frees get time of their own.
		fmt.Fprintf(&script, "pinwatch workload bpf-maps --json --type %s --name %s --cgroup /sys/fs/cgroup/%s %s\nsleep 0.4\n",
			m.kind, objectName(m.kind), m.kind, m.size)
	}
	script.WriteString("sleep 1\n") // the kernel frees maps later
	for _, k := range memcgKernels(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			rows, steps, summary := traceObjects(t, k, "bpf,memcg", script.String())
			if summary.Lost != 0 || summary.Verdict != "ok" {
				t.Errorf("summary: %+v", summary)
			}
			for _, m := range maps {
				var charged, page int64
				var payer uint64
				kinds := map[string]int{}
				for _, r := range rows[objectName(m.kind)] {
					kinds[r.Kind]++
					if r.Regime != "memcg" || r.Verdict != "ok" || r.SecondPayer != 0 {
						t.Errorf("%s: row %+v", m.kind, r)
					}
					switch r.Kind {
					case "charge":
						payer = r.CgroupID // the creator's own cgroup
						charged += r.Charged
						page += r.PageBytes
					case "growth":
						charged += r.Charged
					case "refund":
						page += r.PageBytes
					}
					if r.Charged != 0 && r.Payer != payer {
						t.Errorf("%s: paid by cgroup %d, made in %d", m.kind, r.Payer, payer)
					}
				}
				before, after := step(t, steps[m.kind], "start"), step(t, steps[m.kind], "created")
				if kinds["charge"] != after.Count || kinds["refund"] != after.Count {
					t.Errorf("%s: rows %v for %d maps", m.kind, kinds, after.Count)
				}
				// An interrupt may free something else of the same cgroup meanwhile, such as
				// the stack of the process that has ended.
				if page > 0 || page < -1<<20 {
					t.Errorf("%s: %d bytes of pages did not come back", m.kind, page)
				}
				witness := after.MemoryKernel - before.MemoryKernel
				if before.MemoryKernel < 0 || charged <= 0 {
					t.Errorf("%s: charged %d bytes; memory.stat %d and %d", m.kind, charged, before.MemoryKernel, after.MemoryKernel)
				}
				if off := charged - witness; off > tolerance(k) || off < -tolerance(k) {
					t.Errorf("%s: charged %d bytes; kernel in memory.stat grew by %d", m.kind, charged, witness)
				}
				t.Logf("%s: charged %d bytes, memory.stat %d, memlock %d, %d that no cgroup pays for",
					m.kind, charged, witness, step(t, steps[m.kind], "create").Memlock, rows[objectName(m.kind)][0].Unpaid)
			}
		})
	}
}

// objectName is a type's name in the letters that the kernel takes for an object's.
func objectName(kind string) string { return strings.ReplaceAll(kind, "-", "_") }

// memcgKernels are those that charge BPF objects to cgroups.
func memcgKernels(t *testing.T) (list []guesttest.Kernel) {
	for _, k := range guesttest.Newest(t) {
		if k.Series != "5.10" {
			list = append(list, k)
		}
	}
	return list
}

// Where BPF objects are charged to users, what the trace says must agree with how
// many of them fit before the kernel refuses.
func TestRlimitAgreesWithRefusals(t *testing.T) {
	t.Parallel()
	k := guesttest.Fetch(t, "5.10")[0]
	const memlockKiB = 512
	maps := []mapType{
		{"array", "--entries 4096"},
		{"percpu-array", "--entries 512"},
		{"hash", "--entries 200"},
		{"hash-noprealloc", "--entries 2000"},
		{"lru", "--entries 200"},
		{"lpm-trie", "--entries 500"},
		{"ringbuf", "--entries 16384"},
		{"stack-trace", "--entries 16"},
		{"array-of-maps", "--entries 2000"},
	}
	var script strings.Builder
	// The inner map of an array of maps is root's, whose limit pinwatch's own BPF
	// objects exceed.
	script.WriteString("ulimit -l unlimited\n")
	for i, m := range maps {
		fmt.Fprintf(&script, "pinwatch workload bpf-maps --json --type %s --name %s --count 0 --memlock-kib %d --uid %d %s\n",
			m.kind, objectName(m.kind), memlockKiB, 2000+i, m.size)
	}
	rows, steps, summary := traceObjects(t, k, "bpf", script.String()+"sleep 1\n")
	if summary.Lost != 0 || summary.Verdict != "ok" {
		t.Errorf("summary: %+v", summary)
	}
	for _, m := range maps {
		var balance, pages int64
		kinds := map[string]int{}
		for _, r := range rows[objectName(m.kind)] {
			kinds[r.Kind]++
			balance += r.ChargedUser
			// Several workers free at once where freeing waits for something.
			if r.Regime != "rlimit" || r.Verdict != "ok" || r.Certainty != "exact" && r.Kind != "refund" {
				t.Errorf("%s: row %+v", m.kind, r)
			}
			if r.Kind == "charge" {
				pages = r.ChargedUser
			}
			if r.Kind == "refusal" && r.Errno != 1 {
				t.Errorf("%s: refused with errno %d", m.kind, r.Errno)
			}
		}
		if balance != 0 {
			t.Errorf("%s: charges and refunds leave %d pages", m.kind, balance)
		}
		if len(steps[m.kind]) == 0 {
			t.Errorf("%s: the workload said nothing", m.kind)
			continue
		}
		refused := step(t, steps[m.kind], "refused")
		if refused.ErrnoName != "EPERM" || pages == 0 || int64(refused.Count) != memlockKiB/4/pages {
			t.Errorf("%s: %d maps of %d pages fit in %d KiB (%s)", m.kind, refused.Count, pages, memlockKiB, refused.ErrnoName)
		}
		if kinds["charge"] != refused.Count || kinds["refund"] != refused.Count || kinds["refusal"] != 1 {
			t.Errorf("%s: rows %v; %d maps fit", m.kind, kinds, refused.Count)
		}
	}
}

// Who fills a map does not pay for it, and who is refused is told by whom.
func TestMemcgPayers(t *testing.T) {
	t.Parallel()
	const script = `
mkdir /sys/fs/cgroup/a /sys/fs/cgroup/b
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
kernel() { while read name value; do [ $name != kernel ] || echo "{\"step\":\"$1\",\"type\":\"witness\",\"memory_stat_kernel_bytes\":$value}"; done < /sys/fs/cgroup/$2/memory.stat; }
pinwatch workload bpf-maps --quiet --type hash-noprealloc --name filled --entries 100000 --value-size 1000 --cgroup /sys/fs/cgroup/a --pin /sys/fs/bpf/m
kernel a-before a
kernel b-before b
pinwatch workload bpf-maps --quiet --from /sys/fs/bpf/m --update 10000 --cgroup /sys/fs/cgroup/b
kernel a-after a
kernel b-after b
rm /sys/fs/bpf/m
pinwatch workload bpf-maps --json --type array --name refused --entries 4096 --value-size 4096 --cgroup /sys/fs/cgroup/c --memory-max-bytes 8000000
for type in array percpu-array hash lru queue stack-trace array-of-maps ringbuf; do
	pinwatch workload bpf-maps --quiet --type $type --name small --cgroup /sys/fs/cgroup/d
done
sleep 1
kernel c-after c
`
	for _, k := range memcgKernels(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			rows, steps, summary := traceObjects(t, k, "bpf,memcg", script)
			if summary.Lost != 0 || summary.Verdict != "ok" {
				t.Errorf("summary: %+v", summary)
			}
			for _, r := range rows["small"] {
				if r.Verdict != "ok" {
					t.Errorf("a small map: %+v", r)
				}
			}
			if n := len(rows["small"]); n != 16 {
				t.Errorf("%d rows for 8 small maps made and freed", n)
			}
			witness := steps["witness"]
			a := step(t, witness, "a-after").MemoryKernel - step(t, witness, "a-before").MemoryKernel
			b := step(t, witness, "b-after").MemoryKernel - step(t, witness, "b-before").MemoryKernel
			var grown int64
			var payer uint64
			for _, r := range rows["filled"] {
				if r.Kind == "charge" {
					payer = r.CgroupID
				}
				if r.Kind == "growth" {
					grown += r.Charged
					if r.Payer != payer {
						t.Errorf("growth paid by cgroup %d; made in %d: %+v", r.Payer, payer, r)
					}
				}
			}
			if off := grown - a; off > tolerance(k) || off < -tolerance(k) || grown < 5<<20 || b > 1<<20 {
				t.Errorf("grew by %d bytes; memory.stat of the creator's cgroup by %d, of the other one's by %d", grown, a, b)
			}
			refusals, page := rows["refused"], k.PageKiB()<<10
			if len(refusals) != 1 || refusals[0].Kind != "refusal" || refusals[0].Errno != 12 ||
				refusals[0].LimitGroup == 0 || refusals[0].Limit != 8000000/page*page || refusals[0].Verdict != "ok" {
				t.Errorf("memory.max: %+v", refusals)
			}
			// Since 6.18 what failed is freed by a worker: until then the cgroup is full,
			// and the workload may be killed before it can say what it saw.
			if said := steps["array"]; len(said) > 1 {
				if refused := step(t, said, "refused"); refused.ErrnoName != "ENOMEM" || refused.Count != 0 {
					t.Errorf("the workload saw %+v", refused)
				}
			}
			if stays := step(t, witness, "c-after").MemoryKernel; stays > 1<<20 {
				t.Errorf("%d bytes stay charged after the refusal", stays)
			}
		})
	}
}

// Ten thousand maps come and go, and every one is seen.
func TestManyMaps(t *testing.T) {
	if !guesttest.All() {
		t.Skip("runs with make test-kernels")
	}
	t.Parallel()
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			out := guesttest.Run(t, k, guesttest.Shell(t), "trace", "--only", "bpf", "--violations", "--",
				"sh", "-c", "pinwatch workload bpf-maps --type array --count 10000 --close --quiet --memlock-kib 65536; sleep 1")
			if out.Code != 0 || !strings.Contains(out.Stdout, ": 10000 charges, 10000 refunds,") || !strings.Contains(out.Stdout, "; 0 lost") {
				t.Errorf("exit %d\n%s%s", out.Code, out.Stdout, out.Stderr)
			}
		})
	}
}

// With all that shares locked_vm busy, a user's counter is explained to the last
// page: what is charged is all given back, and nothing is left to "not traced".
func TestOtherChargers(t *testing.T) {
	t.Parallel()
	explained := regexp.MustCompile(`(?m)^uid 2003.*: 0 pages charged: 0 for live buffers,.* 0 that should not be, 0 older or not traced, 0 unexplained$`)
	idle := regexp.MustCompile(`(?m)^workload: (\w+) 0\b.*$`)
	kernels := guesttest.Newest(t)
	kernels = guesttest.WithOldest(t, kernels) // where BPF objects share the counter too
	for _, k := range kernels {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			out := guesttest.Run(t, k, guesttest.Shell(t), "trace", "--violations", "--",
				"sh", "-c", "pinwatch workload chargers --duration 2s; sleep 2")
			if out.Code != 0 || !strings.Contains(out.Stdout, "; 0 lost") {
				t.Errorf("exit %d", out.Code)
			}
			if none := idle.FindString(out.Stderr); none != "" || !strings.Contains(out.Stderr, "workload: perf ") {
				t.Errorf("a charger was not exercised: %s", none)
			}
			if !explained.MatchString(out.Stdout) || strings.Contains(out.Stdout, "accounts locked memory wrong") {
				t.Errorf("not explained:\n%s%s", out.Stdout, out.Stderr)
			}
		})
	}
}

package charging

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Question is what is asked in advance.
type Question struct {
	Kind     string // "io-uring", "umem", "zerocopy" or "bpf-map"
	Bytes    int64  // of all but a BPF map
	Map      rule.Map
	PID, UID uint32
	// BPF finds out what BPF memory is held against.
	BPF func() kernel.BPFAccounting
}

// NewRequest puts a question about this machine.
func NewRequest(s *snapshot.Snapshot, q Question) (r Request, err error) {
	switch q.Kind {
	case "io-uring":
		r = BuffersRequest(q.Bytes, s.PageSize)
	case "umem":
		r = UmemRequest(q.Bytes, s.PageSize)
	case "zerocopy":
		r = SendRequest(q.Bytes, s.PageSize)
	case "bpf-map":
		m := MapRequest{Map: q.Map, Machine: kernel.MemoryBytes(), On: rule.MapMachine{PageSize: uint64(s.PageSize)}}
		if m.On.PossibleCPUs, err = ebpf.PossibleCPU(); err != nil {
			return r, err
		}
		if tree, err := cgroup.Host(); err == nil {
			m.Cgroups = CgroupsOf(tree, memoryCgroup(tree, q.PID))
		}
		r, err = CreateRequest(m, q.BPF())
	default:
		err = fmt.Errorf("question %q: want io-uring, umem, zerocopy or bpf-map", q.Kind)
	}
	r.PID, r.UID, r.Limit, r.Memory = q.PID, q.UID, advice.OwnLimit(s.PageSize), kernel.MemoryBytes()
	return r, err
}

// memoryCgroup is where a process's memory is charged; of a new process, where pinwatch's is,
// for it is started from there.
func memoryCgroup(tree *cgroup.Tree, pid uint32) string {
	if pid == 0 {
		pid = uint32(os.Getpid())
	}
	m, err := tree.Process(int(pid))
	if err != nil {
		return ""
	}
	return m.Path()
}

// BuffersRequest asks io_uring to register buffers with so many bytes, in one call.
func BuffersRequest(bytes int64, pageSize uint32) Request {
	pages := rule.BufferPages(rule.Vector{Bytes: uint64(bytes)}, uint64(pageSize))
	return Request{Charger: charger("io_uring"), Pages: pages,
		What: fmt.Sprintf("registered io_uring buffers of %s, aligned and on pages of the usual size (unaligned ones touch a page more each, huge pages count whole)", remedy.Count(bytes, "byte")),
		Smaller: func(pages int64) string {
			return "buffers of at most " + remedy.Count(pages, "page") + " in all, aligned and on pages of the usual size (MADV_NOHUGEPAGE)"
		}}
}

// UmemRequest asks AF_XDP for a umem of so many bytes.
func UmemRequest(bytes int64, pageSize uint32) Request {
	return Request{Charger: charger("xdp"), Pages: rule.UmemPages(uint64(bytes), uint64(pageSize)), What: "an AF_XDP umem of " + remedy.Count(bytes, "byte"),
		Smaller: func(pages int64) string { return "a umem of at most " + remedy.Count(pages, "page") }}
}

// SendRequest asks for one send of so many bytes with MSG_ZEROCOPY.
func SendRequest(bytes int64, pageSize uint32) Request {
	return Request{Charger: charger("zerocopy"), Pages: rule.ZeroCopyPages(uint64(bytes), uint64(pageSize)),
		What: fmt.Sprintf("a send of %s with MSG_ZEROCOPY, which is charged for its pages and 2 more until it is done", remedy.Count(bytes, "byte")),
		Smaller: func(pages int64) string {
			most := rule.LargestZeroCopy(pages, uint64(pageSize))
			if most == 0 {
				return ""
			}
			return fmt.Sprintf("sends of at most %d bytes", most)
		}}
}

// CreateRequest asks for a BPF map. How BPF memory is charged decides who is asked.
func CreateRequest(m MapRequest, accounting kernel.BPFAccounting) (Request, error) {
	r := Request{Map: &m, What: fmt.Sprintf("a BPF map: %s, key %d, value %d bytes, %s", bpfobj.MapType(m.Type), m.KeySize, m.ValueSize, remedy.Count(int64(m.MaxEntries), "element"))}
	r.Charger = charger("bpf-memcg")
	if accounting == kernel.BPFRlimit {
		r.Charger = charger("bpf-rlimit")
		pages, ok := m.Charge(m.On)
		if !ok {
			return r, fmt.Errorf("a map of type %s: what it is charged is not known here; try it: pinwatch explain -- COMMAND", bpfobj.MapType(m.Type))
		}
		r.Pages = pages
	}
	return r, nil
}

func charger(name string) rule.Charger {
	all := rule.Chargers()
	return all[slices.IndexFunc(all, func(c rule.Charger) bool { return c.Name == name })]
}

// ParseMap reads TYPE:KEY:VALUE:ENTRIES, such as hash:8:256:100000. Sizes may have a K, an M or
// a G; entries are a number. A + behind the type, as in hash+no_prealloc, gives flags.
func ParseMap(text string) (m rule.Map, err error) {
	bad := func(why string) (rule.Map, error) {
		return m, fmt.Errorf("%q: %s; want TYPE:KEY:VALUE:ENTRIES, such as hash:8:256:100000", text, why)
	}
	parts := strings.Split(text, ":")
	if len(parts) != 4 {
		return bad("it has " + remedy.Count(int64(len(parts)), "part"))
	}
	name, flags, _ := strings.Cut(strings.ToLower(parts[0]), "+")
	kind := slices.Index(bpfobj.MapTypes(), name)
	if kind <= 0 {
		return bad(fmt.Sprintf("no map type is called %q", name))
	}
	m.Type = uint32(kind)
	switch flags {
	case "":
	case "no_prealloc":
		m.Flags = unix.BPF_F_NO_PREALLOC
	default:
		return bad(fmt.Sprintf("%q is no flag (no_prealloc is)", flags))
	}
	for i, field := range []*uint32{&m.KeySize, &m.ValueSize, &m.MaxEntries} {
		n, err := parseCount(parts[i+1])
		if err != nil {
			return bad(fmt.Sprintf("%q is no number of 32 bits", parts[i+1]))
		}
		*field = n
	}
	return m, nil
}

// parseCount reads 0, or what ParseSize does, of 32 bits.
func parseCount(text string) (uint32, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return uint32(n), nil
	}
	n, err := advice.ParseSize(text)
	if err == nil && n > 1<<32-1 {
		err = errors.New("too large")
	}
	return uint32(n), err
}

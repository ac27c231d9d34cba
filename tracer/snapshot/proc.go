package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// proc reads what procfs and sysfs show. It needs no privileges; without them it
// sees less, and says so.
type proc struct{ proc, sys string }

func newProc(opts Options) proc {
	p := proc{proc: opts.Proc, sys: opts.Sys}
	if p.proc == "" {
		p.proc = "/proc"
	}
	if p.sys == "" {
		p.sys = "/sys"
	}
	return p
}

// initialUserNamespace is the inode number of the initial user namespace: a
// constant of the kernel (PROC_USER_INIT_INO).
const initialUserNamespace = "user:[4026531837]"

// settings reads what the rule depends on, host-wide.
func (p proc) settings(s *Snapshot) error {
	s.PageSize = uint32(os.Getpagesize())
	var err error
	if s.MlockKiB, err = kernel.ReadInt(filepath.Join(p.proc, "sys/kernel/perf_event_mlock_kb")); err != nil {
		return fmt.Errorf("%w: requires a kernel with CONFIG_PERF_EVENTS and /proc mounted", err)
	}
	if s.Paranoid, err = kernel.ReadInt(filepath.Join(p.proc, "sys/kernel/perf_event_paranoid")); err != nil {
		return err
	}
	s.OnlineCPUs, err = kernel.OnlineCPUs(p.sys)
	return err
}

// hidden counts what this user may not see.
type hidden struct{ processes, maps, descriptors int }

// processes reads all processes and what they have mapped.
func (p proc) processes(ctx context.Context, s *Snapshot) error {
	s.Source = SourceProc
	pids, err := p.pids()
	if err != nil {
		return err
	}
	var h hidden
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return err
		}
		process, ok := p.process(pid, s.PageSize)
		if !ok {
			continue // a kernel thread, or gone meanwhile
		}
		if !process.Known {
			h.processes++
		}
		buffers, err := p.buffers(pid, s.PageSize)
		if errors.Is(err, os.ErrPermission) {
			h.maps++
			process.hidden = true
		}
		for _, b := range buffers {
			s.lastID++
			b.ID, b.PayerUID = s.lastID, process.UID
			if b.Area == rule.Data {
				process.Buffers++
			}
			process.BufferPages += b.Pages
			s.Buffers = append(s.Buffers, b)
		}
		rings, err := p.rings(pid, s.PageSize)
		if errors.Is(err, os.ErrPermission) {
			h.descriptors++
		}
		s.IOUring = append(s.IOUring, rings...)
		s.Processes = append(s.Processes, process)
	}
	s.degrade("users' counters: no file shows them; they are estimated from the sizes of buffers and VmPin, and what is not perf's is missing")
	h.degrade(s)
	return nil
}

// degrade says what was hidden.
func (h hidden) degrade(s *Snapshot) {
	if h.processes > 0 {
		s.degrade("pinned_vm and limits of %d processes: not readable by this user", h.processes)
	}
	if h.maps > 0 {
		s.degrade("mappings of %d processes: not readable by this user (needs CAP_SYS_PTRACE, or the same uid)", h.maps)
	}
	if h.descriptors > 0 {
		s.degrade("file descriptors of %d processes, and with them io_uring buffers: not readable by this user (needs CAP_SYS_PTRACE, or the same uid)", h.descriptors)
	}
}

func (p proc) pids() (pids []uint32, err error) {
	dir, err := os.Open(p.proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", p.proc, err)
	}
	for _, name := range names {
		if pid, err := strconv.ParseUint(name, 10, 32); err == nil {
			pids = append(pids, uint32(pid))
		}
	}
	return pids, nil
}

func (p proc) path(pid uint32, name string) string {
	return filepath.Join(p.proc, strconv.FormatUint(uint64(pid), 10), name)
}

// process reads one process. ok is false for kernel threads and for what is gone.
func (p proc) process(pid uint32, pageSize uint32) (result Process, ok bool) {
	result.PID = pid
	raw, err := os.ReadFile(p.path(pid, "status"))
	if err != nil {
		return result, false
	}
	status := fields(raw)
	if result.Comm, ok = status["Name"]; !ok {
		return result, false
	}
	result.Comm = unescape(result.Comm)
	vmPin, ok := status["VmPin"]
	if !ok {
		return result, false // no mm
	}
	kib, err := kernel.ParseKiB(vmPin)
	result.Known = err == nil
	// A negative counter is printed as a huge number.
	result.PinnedVM = int64(kib) / (int64(pageSize) / 1024)
	if uid, err := strconv.ParseUint(first(status["Uid"]), 10, 32); err == nil {
		result.UID = uint32(uid)
	}
	if limit, err := p.lockLimit(pid); err == nil {
		result.LockLimit = pagesOf(limit, pageSize)
	} else {
		result.Known = false
	}
	result.CapIPCLock = hasIPCLock(status["CapEff"]) && p.inInitialUserNamespace(pid)
	result.CgroupPath = p.cgroup(pid)
	return result, true
}

// hasIPCLock reports whether CAP_IPC_LOCK is in a set of capabilities in hex.
func hasIPCLock(set string) bool {
	const capIPCLock = 14
	bits, err := strconv.ParseUint(set, 16, 64)
	return err == nil && bits>>capIPCLock&1 != 0
}

// inInitialUserNamespace reports whether a process is in it. Where this may not be
// known, the process belongs to a more privileged user, and is.
func (p proc) inInitialUserNamespace(pid uint32) bool {
	name, err := os.Readlink(p.path(pid, "ns/user"))
	return err != nil || name == initialUserNamespace
}

// lockLimit is RLIMIT_MEMLOCK in bytes.
func (p proc) lockLimit(pid uint32) (uint64, error) {
	raw, err := os.ReadFile(p.path(pid, "limits"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		rest, ok := strings.CutPrefix(line, "Max locked memory")
		if !ok {
			continue
		}
		soft := first(rest)
		if soft == "unlimited" {
			return math.MaxUint64, nil
		}
		return strconv.ParseUint(soft, 10, 64)
	}
	return 0, fmt.Errorf("%s: no locked memory in it", p.path(pid, "limits"))
}

// cgroup is a process's path in the v2 hierarchy, or "".
func (p proc) cgroup(pid uint32) string {
	raw, err := os.ReadFile(p.path(pid, "cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n")
		}
	}
	return ""
}

// perfMapping marks the mapping of a perf buffer in /proc/PID/maps.
var perfMapping = []byte("anon_inode:[perf_event]")

// buffers are the areas of perf buffers that a process has mapped.
func (p proc) buffers(pid uint32, pageSize uint32) (buffers []Buffer, err error) {
	raw, err := os.ReadFile(p.path(pid, "maps"))
	if err != nil || !bytes.Contains(raw, perfMapping) {
		return nil, err
	}
	for line := range bytes.Lines(raw) {
		if !bytes.HasSuffix(bytes.TrimSpace(line), perfMapping) {
			continue
		}
		var from, to, offset uint64
		var mode string
		if _, err := fmt.Sscanf(string(line), "%x-%x %s %x", &from, &to, &mode, &offset); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", p.path(pid, "maps"), line, err)
		}
		b := Buffer{PID: pid, Pages: int64((to - from) / uint64(pageSize)), Mappings: 1}
		// The data area is mapped from the start, the AUX area lies behind it.
		if offset != 0 {
			b.Area = rule.AUX
		}
		buffers = append(buffers, b)
	}
	return buffers, nil
}

// rings are a process's io_uring instances.
func (p proc) rings(pid uint32, pageSize uint32) (rings []IOUring, err error) {
	dir, err := os.Open(p.path(pid, "fd"))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if target, err := os.Readlink(p.path(pid, "fd/"+name)); err != nil || target != "anon_inode:[io_uring]" {
			continue
		}
		if fd, err := strconv.Atoi(name); err == nil {
			if ring, ok := p.ring(pid, fd, pageSize); ok {
				rings = append(rings, ring)
			}
		}
	}
	return rings, nil
}

// ring reads the registered buffers of an io_uring instance from its fdinfo.
func (p proc) ring(pid uint32, fd int, pageSize uint32) (IOUring, bool) {
	ring := IOUring{PID: pid, FD: fd}
	raw, err := os.ReadFile(p.path(pid, "fdinfo/"+strconv.Itoa(fd)))
	if err != nil {
		return ring, false
	}
	return parseRing(ring, string(raw), pageSize), true
}

// parseRing reads "UserBufs:\tN" and the lines "    I: 0xADDRESS/LENGTH" after it.
func parseRing(ring IOUring, info string, pageSize uint32) IOUring {
	_, info, found := strings.Cut(info, "UserBufs:")
	if !found {
		return ring
	}
	count, list, _ := strings.Cut(info, "\n")
	ring.Buffers, _ = strconv.Atoi(strings.TrimSpace(count))
	for line := range strings.Lines(list) {
		var index int
		var address, length uint64
		if _, err := fmt.Sscanf(line, "%d: 0x%x/%d", &index, &address, &length); err != nil {
			break
		}
		page := uint64(pageSize)
		ring.Pages += int64((address+length+page-1)/page - address/page)
	}
	return ring
}

// fields splits "Name:\tvalue" lines.
func fields(raw []byte) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			m[name] = strings.TrimSpace(value)
		}
	}
	return m
}

// unescape undoes what the kernel does to a comm in /proc/PID/status.
func unescape(s string) string {
	return strings.NewReplacer(`\n`, "\n", `\\`, `\`).Replace(s)
}

func first(s string) string {
	if f := strings.Fields(s); len(f) > 0 {
		return f[0]
	}
	return ""
}

package reason

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// What a memory cgroup's refusal is called.
var overCgroup = []string{"a memory cgroup {cgroup-is}", "it is {cgroup}", "{usage-file} was {current}, {limit-file} {max}", "it was to have room for {wanted} more at once"}

// ringRows are those of io_uring_setup().
func ringRows() []Reason {
	row := func(errno unix.Errno, name, function, since, provocation, when string, holds func(*Facts) Truth, say ...string) Reason {
		return Reason{Call: SetupRing, Errno: errno, Name: name, Function: function, Since: since, Outcome: OtherRule, Provocation: provocation, When: when, holds: holds, Say: say}
	}
	ring := func(condition func(r rule.Ring) bool) func(*Facts) Truth {
		return func(f *Facts) Truth {
			if f.Ring == nil {
				return Unseen
			}
			return truth(condition(*f.Ring))
		}
	}
	unprovoked := func(why string, r Reason) Reason { r.Unprovoked = why; return r }
	outcome := func(o Outcome, accounting bool, r Reason) Reason { r.Outcome, r.Accounting = o, accounting; return r }
	until := func(last string, r Reason) Reason { r.Until = last; return r }
	const clamp = 1 << 4 // IORING_SETUP_CLAMP
	return []Reason{
		row(unix.EPERM, "disabled", "io_uring_allowed", "6.6", "ring-forbidden", "kernel.io_uring_disabled is 2",
			func(f *Facts) Truth { return of(func() bool { return *f.RingDisabled == 2 }, f.RingDisabled) }, "kernel.io_uring_disabled is 2: nobody may have a ring, whatever the limits"),
		row(unix.EPERM, "group", "io_uring_allowed", "6.6", "ring-group", "kernel.io_uring_disabled is 1, and the caller has neither CAP_SYS_ADMIN nor the group",
			func(f *Facts) Truth {
				return all(of(func() bool { return *f.RingDisabled == 1 }, f.RingDisabled), not(seen(f.CapSysAdmin)), not(seen(f.RingGroup)))
			}, "kernel.io_uring_disabled is 1: it takes CAP_SYS_ADMIN, or the group kernel.io_uring_group"),
		unprovoked("Debian's 5.10 has a later io_uring, which does not ask", until("5.11", row(unix.EPERM, "polling", "io_sq_offload_create", "5.1", "", "a kernel thread that polls, without CAP_SYS_ADMIN or CAP_SYS_NICE",
			func(f *Facts) Truth {
				return all(seen(f.Polls), Unseen, not(seen(f.CapSysAdmin)))
			}, "a ring with a kernel thread (IORING_SETUP_SQPOLL) takes CAP_SYS_ADMIN, or CAP_SYS_NICE, on this kernel"))),
		func() Reason {
			r := unprovoked(needsSecurity, row(unix.EPERM, "security", "security_uring_allowed", "6.15", "", "a BPF program attached to a security hook refuses", unseen, "what is left is a security module"))
			r.last = true
			return r
		}(),
		unprovoked(needsSecurity, row(unix.EACCES, "security", "security_uring_sqpoll", "5.16", "", "a security module refuses", unseen, "a security module refused: of the kernel's own checks none gives this error")),
		row(unix.EINVAL, "flags", "io_uring_sanitise_params", "5.1", "ring-flags", "flags that this kernel does not know, or that exclude each other", unseen, "this kernel does not take the flags, or not together"),
		row(unix.EINVAL, "none", "io_uring_fill_params", "5.1", "ring-none", "no entries", ring(func(r rule.Ring) bool { return r.Entries == 0 }), "a ring has at least one entry"),
		row(unix.EINVAL, "entries", "io_uring_fill_params", "5.1", "ring-entries", "more than 32768 entries", ring(func(r rule.Ring) bool { return r.Entries > rule.MostRingEntries && r.Flags&clamp == 0 }), "a ring has at most 32768 entries", "{ring} were asked for"),
		row(unix.EINVAL, "completions", "io_uring_fill_params", "5.5", "ring-completions", "a number of completions that is 0, less than the entries, or more than 65536",
			ring(func(r rule.Ring) bool {
				_, _, ok := r.Bytes()
				return !ok && r.Flags&rule.RingSetCQ != 0 && r.Entries > 0 && r.Entries <= rule.MostRingEntries && r.Flags&clamp == 0
			}), "a ring has at least as many completions as entries, and at most 65536"),
		row(unix.EFAULT, "parameters", "io_uring_setup", "5.1", "ring-address", "the parameters' address is none", unseen, "the parameters are at no valid address"),
		outcome(Limit, true, until("7.0", row(unix.ENOMEM, "limit", "__io_account_mem", "6.14", "ring-limit", "the pages of a region and the user's counter are more than RLIMIT_MEMLOCK (regions are charged from 6.14 to 6.19, and the rings as a whole before 5.12)", limit, overLimit...))),
		outcome(Limit, true, row(unix.ENOMEM, "cgroup", "__memcg_kmem_charge_page", "5.12", "ring-cgroup", "a memory cgroup refuses the pages of a ring", byCgroup, append(slices.Clone(overCgroup), "RLIMIT_MEMLOCK has no part in it")...)),
		outcome(NoMemory, false, unprovoked(needsExhausted, row(unix.ENOMEM, "memory", "io_allocate_scq_urings", "5.1", "", "the machine has no pages left, or not in one piece",
			unseen, "the kernel found no memory for the ring"))),
		row(unix.ENXIO, "attach", "io_sq_offload_create", "5.12", "ring-attach", "IORING_SETUP_ATTACH_WQ, and wq_fd is no file (EBADF before)", unseen, "the ring whose threads are to be shared (wq_fd) is no open file"),
		until("5.12", row(unix.EBADF, "attach", "io_init_wq_offload", "5.6", "ring-attach", "IORING_SETUP_ATTACH_WQ, and wq_fd is no file", unseen, "the ring whose threads are to be shared (wq_fd) is no open file")),
		row(unix.EAGAIN, "threads", "io_sq_offload_create", "5.12", "ring-threads", "no more kernel threads: pids.max, RLIMIT_NPROC", unseen, "there may be no further thread (pids.max of a cgroup, RLIMIT_NPROC); memory has no part in it"),
		row(unix.EMFILE, "files", "get_unused_fd_flags", "5.1", "ring-files", "RLIMIT_NOFILE", unseen, "the process has as many files open as RLIMIT_NOFILE allows"),
		unprovoked(needsFiles, row(unix.ENFILE, "all-files", "alloc_empty_file", "5.1", "", "fs.file-max", unseen, "the machine has as many files open as fs.file-max allows")),
	}
}

// bufferRows are those of io_uring_register() for buffers, and of what io_uring sends.
func bufferRows() []Reason {
	row := func(errno unix.Errno, name, function, provocation, when string, holds func(*Facts) Truth, say ...string) Reason {
		return Reason{Call: RegisterBuffers, Errno: errno, Name: name, Function: function, Since: "5.1", Outcome: OtherRule, Provocation: provocation, When: when, holds: holds, Say: say}
	}
	limited := row(unix.ENOMEM, "limit", "__io_account_mem", "buffers-limit", "the pages that a buffer touches and the user's counter are more than RLIMIT_MEMLOCK", limit,
		append([]string{"a buffer that is not aligned touches one page more, and a huge page counts whole"}, overLimit...)...)
	limited.Outcome, limited.Accounting = Limit, true
	memcg := row(unix.ENOMEM, "cgroup", "io_pin_pages", "", "a memory cgroup refuses the memory for the page pointers", byCgroup, overCgroup...)
	memcg.Since, memcg.Outcome, memcg.Accounting, memcg.Unprovoked = "7.0", Limit, true, "the buffer's own pages are refused before (EFAULT), or are charged to the same cgroup"
	memory := row(unix.ENOMEM, "memory", "io_sqe_buffer_register", "", "the machine has no memory left", unseen, "the kernel found no memory for the buffer's page pointers")
	memory.Outcome, memory.Unprovoked = NoMemory, needsExhausted
	absent := row(unix.EFAULT, "pages", "pin_user_pages", "buffers-cgroup", "a page of the buffer could not be had: a memory cgroup is at its limit",
		func(f *Facts) Truth { return all(byCgroup(f), not(seen(f.Pinned))) }, append([]string{"the buffer's own pages were not there yet, and could not be had"}, overCgroup...)...)
	absent.Outcome, absent.Accounting = Limit, true
	files := row(unix.EOPNOTSUPP, "file", "io_sqe_buffer_register", "", "memory of a file that is no shared memory", func(f *Facts) Truth { return seen(f.FileBacked) }, "this kernel registers no memory of files")
	files.Until, files.Unprovoked = "6.5", "all files of a guest are shared memory"
	mixed := row(unix.EINVAL, "files", "io_sqe_buffer_register", "", "memory of several files, or of a file and of none", unseen, "this kernel registers no buffer over several files")
	mixed.Until, mixed.Unprovoked = "6.5", "the same check as that of memory of a file, with two of them"
	restricted := row(unix.EACCES, "restricted", "__io_uring_register", "buffers-restricted", "the ring has restrictions that leave this out", unseen, "the ring was restricted (IORING_REGISTER_RESTRICTIONS), and may not do this")
	restricted.Since = "5.10"
	single := row(unix.EEXIST, "single", "__io_uring_register", "buffers-single", "IORING_SETUP_SINGLE_ISSUER, and another thread's", unseen, "the ring is another thread's alone (IORING_SETUP_SINGLE_ISSUER)")
	single.Since = "6.0"
	large := func(f *Facts) Truth { return of(func() bool { return *f.BufferBytes > 1<<30 }, f.BufferBytes) }
	send := Reason{Call: SendRing, Errno: unix.ENOMEM, Name: "limit", Function: "__io_account_mem", Since: "6.0", Outcome: Limit, Accounting: true,
		When: "bytes/PAGE_SIZE + 2 of the send and the user's counter are more than RLIMIT_MEMLOCK", Unprovoked: "it is the accounting function of registered buffers, which another row provokes", holds: limit, Say: overLimit}
	return []Reason{
		row(unix.EBADF, "descriptor", "io_uring_register", "buffers-descriptor", "the file descriptor is none", unseen, "the file descriptor is no open file"),
		row(unix.EOPNOTSUPP, "ring", "io_uring_register", "buffers-other", "the file descriptor is no ring's", unseen, "the file descriptor is no ring's"),
		restricted, single,
		row(unix.EBUSY, "registered", "io_sqe_buffers_register", "buffers-twice", "the ring has buffers already", func(f *Facts) Truth { return seen(f.Registered) }, "the ring has buffers already: unregister them first"),
		row(unix.EINVAL, "number", "io_sqe_buffers_register", "buffers-none", "no buffers, or more than 16384 (1024 before 5.13)",
			func(f *Facts) Truth {
				if f.Buffers == nil || *f.Buffers > 1024 && *f.Buffers <= 16384 {
					return Unseen // which of the two it is
				}
				return truth(*f.Buffers == 0 || *f.Buffers > 16384)
			}, "a ring takes 1 to 16384 buffers at once", "{buffers} were given"),
		mixed,
		row(unix.EFAULT, "address", "io_copy_iov", "buffers-address", "the vectors are at no address", unseen, "the list of buffers is at no valid address"),
		row(unix.EFAULT, "large", "io_buffer_validate", "buffers-large", "a buffer of more than 1 GiB", large, "no buffer may have more than 1 GiB", "it has {buffer}"),
		row(unix.EFAULT, "empty", "io_buffer_validate", "buffers-empty", "a buffer of no bytes at an address", func(f *Facts) Truth { return of(func() bool { return *f.BufferBytes == 0 }, f.BufferBytes) }, "a buffer has at least a byte"),
		absent,
		row(unix.EFAULT, "unmapped", "pin_user_pages", "buffers-unmapped", "an address where nothing is mapped, or not for writing", func(f *Facts) Truth {
			return all(not(seen(f.Pinned)), not(large(f)), not(byCgroup(f)))
		}, "a buffer's pages could not be pinned: nothing is mapped there that can be written, or its file ends before"),
		row(unix.EOVERFLOW, "wraps", "io_buffer_validate", "buffers-overflow", "a buffer beyond the end of the addresses", unseen, "a buffer ends beyond the last address"),
		files, memcg, limited, memory, send,
	}
}

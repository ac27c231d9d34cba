package reason

import (
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// umemRows are those of XDP_UMEM_REG.
func umemRows() []Reason {
	row := func(errno unix.Errno, name, function, provocation, when string, holds func(*Facts) Truth, say ...string) Reason {
		return Reason{Call: RegisterUmem, Errno: errno, Name: name, Function: function, Outcome: OtherRule, Provocation: provocation, When: when, holds: holds, Say: say}
	}
	umem := func(condition func(f *Facts, u unix.XDPUmemReg) bool) func(*Facts) Truth {
		return func(f *Facts) Truth {
			if f.Umem == nil {
				return Unseen
			}
			return truth(condition(f, *f.Umem))
		}
	}
	const unalignedChunks = 1 << 0
	limited := row(unix.ENOBUFS, "limit", "xdp_umem_account_pages", "umem-limit", "the umem's pages and the user's counter are more than RLIMIT_MEMLOCK", limit, overLimit...)
	limited.Outcome, limited.Accounting = Limit, true
	memory := row(unix.ENOMEM, "memory", "xdp_umem_pin_pages", "umem-huge", "no memory for the page pointers", unseen, "the kernel found no memory for the umem's page pointers")
	memory.Outcome = NoMemory
	rest := row(unix.EINVAL, "rest", "xdp_umem_reg", "umem-rest", "no multiple of the chunk size", umem(func(_ *Facts, u unix.XDPUmemReg) bool {
		return u.Size > 0 && u.Flags&unalignedChunks == 0 && u.Len%uint64(u.Size) != 0
	}), "this kernel takes whole chunks only")
	return []Reason{
		row(unix.EBUSY, "exists", "xsk_setsockopt", "umem-twice", "the socket has a umem, or is bound", func(f *Facts) Truth { return either(seen(f.UmemExists), Unseen) }, "the socket has a umem already, or is bound"),
		row(unix.EINVAL, "chunk", "xdp_umem_reg", "umem-chunk", "chunks of less than 2048 bytes, or of more than a page", umem(func(f *Facts, u unix.XDPUmemReg) bool {
			return u.Size < 2048 || uint64(u.Size) > f.pageSize()
		}), "chunks have at least 2048 bytes, and at most a page"),
		row(unix.EINVAL, "flags", "xdp_umem_reg", "umem-flags", "flags that this kernel does not know", umem(func(_ *Facts, u unix.XDPUmemReg) bool { return u.Flags > 7 }), "this kernel does not know the flags"),
		row(unix.EINVAL, "power", "xdp_umem_reg", "umem-power", "chunks that are no power of two", umem(func(_ *Facts, u unix.XDPUmemReg) bool {
			return u.Flags&unalignedChunks == 0 && u.Size&(u.Size-1) != 0
		}), "chunks are powers of two, but for XDP_UMEM_UNALIGNED_CHUNK_FLAG"),
		row(unix.EINVAL, "align", "xdp_umem_reg", "umem-align", "memory that begins inside of a page", umem(func(f *Facts, u unix.XDPUmemReg) bool { return u.Addr%f.pageSize() != 0 }), "a umem begins at a page"),
		row(unix.EINVAL, "wraps", "xdp_umem_reg", "umem-wrap", "memory beyond the end of the addresses", umem(func(_ *Facts, u unix.XDPUmemReg) bool { return u.Addr+u.Len < u.Addr }), "the umem ends beyond the last address"),
		row(unix.EINVAL, "empty", "xdp_umem_reg", "umem-empty", "no chunk, or more than 2^32", umem(func(_ *Facts, u unix.XDPUmemReg) bool {
			return u.Size > 0 && (u.Len < uint64(u.Size) || u.Len/uint64(u.Size) > 1<<32-1)
		}), "a umem has at least one chunk, and at most 2^32 - 1"),
		rest,
		row(unix.EINVAL, "headroom", "xdp_umem_reg", "umem-headroom", "a headroom that leaves nothing of a chunk", umem(func(_ *Facts, u unix.XDPUmemReg) bool {
			return u.Size >= 256 && u.Headroom >= u.Size-256 // XDP_PACKET_HEADROOM
		}), "the headroom leaves nothing of a chunk"),
		row(unix.EINVAL, "layout", "xdp_umem_reg", "", "a headroom or metadata that leave too little of a chunk (7.x counts skb_shared_info, too)", unseen, "the headroom or the metadata do not go with the size of a chunk, on this kernel").unprovoked("what it takes is another number on each kernel"),
		limited, memory,
		row(unix.ENOMEM, "hole", "xdp_umem_pin_pages", "umem-hole", "only a first part of the umem's pages is there", func(f *Facts) Truth { return not(seen(f.Pinned)) }, "not all of the umem's pages could be pinned: a part of its addresses is not mapped, or a cgroup gave no pages for it; no limit on locked memory has a part in it"),
		row(unix.EFAULT, "unmapped", "pin_user_pages", "umem-unmapped", "nothing is mapped at the umem's address, or not for writing", unseen, "at the umem's address nothing is mapped that can be written"),
	}
}

// unprovoked says why nothing provokes the row.
func (r Reason) unprovoked(why string) Reason {
	r.Unprovoked = why
	return r
}

// sendRows are those of MSG_ZEROCOPY.
func sendRows() []Reason {
	return []Reason{
		{Call: SendZeroCopy, Errno: unix.ENOBUFS, Name: "notification", Function: "sock_omalloc", Since: "4.14", Outcome: OtherRule, Provocation: "send-notes",
			When: "the socket may have no more memory for notifications (net.core.optmem_max)", holds: func(f *Facts) Truth { return not(seen(f.Notification)) },
			Say: []string{"the socket has as much memory for notifications as net.core.optmem_max allows: read those that are there (MSG_ERRQUEUE)"}},
		{Call: SendZeroCopy, Errno: unix.ENOBUFS, Name: "limit", Function: "mm_account_pinned_pages", Since: "4.14", Outcome: Limit, Accounting: true, Provocation: "send-limit",
			When: "bytes/PAGE_SIZE + 2 of the send and the user's counter are more than RLIMIT_MEMLOCK", holds: func(f *Facts) Truth {
				return f.refusedByLimit(either(seen(f.CapIPCLock), of(func() bool { return *f.Limit >= rule.Unlimited }, f.Limit)))
			}, Say: append([]string{"each send asks for its bytes / page size + 2 pages until it is complete"}, overLimit...)},
		{Call: SendZeroCopy, Errno: unix.ENOBUFS, Name: "appended", Function: "msg_zerocopy_realloc", Since: "4.14", Outcome: OtherRule, Unprovoked: "a datagram ends at 64 KiB, long before 512 KiB",
			When: "more than 512 KiB were appended to one datagram", holds: unseen,
			Say: []string{"what was appended to a datagram has more than 512 KiB"}},
		{Call: SendZeroCopy, Errno: unix.ENOBUFS, Name: "device", Function: "ip_send_skb", Outcome: OtherRule, Unprovoked: "it takes a device whose queue is full, and a socket that wants to know (IP_RECVERR)",
			When: "a device's queue dropped the packet", holds: unseen,
			Say: []string{"a device dropped the packet: its queue was full"}},
	}
}

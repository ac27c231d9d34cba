package rule

import "golang.org/x/sys/unix"

// Map is what is asked of bpf(BPF_MAP_CREATE).
type Map struct {
	Type       uint32 // BPF_MAP_TYPE_...
	KeySize    uint32 // bytes
	ValueSize  uint32 // bytes
	MaxEntries uint32 // of a ring buffer: bytes
	Flags      uint32 // BPF_F_...
}

// MapMachine is what a map's size depends on beside itself.
type MapMachine struct {
	PageSize     uint64 // bytes
	PossibleCPUs int
	// SpeculationSafe reports that the creator lacks CAP_PERFMON and the kernel wants
	// the indices of its arrays masked: they are rounded up to a power of two (bpf_bypass_spec_v1()).
	SpeculationSafe bool
}

// Sizes of the kernel's structures, in bytes: of 5.10 on a 64-bit machine. Those of
// map headers have grown since, which moves a map's size by less than a page.
const (
	mapHeader     = 320   // struct bpf_array, bpf_ringbuf_map, lpm_trie, bpf_queue_stack, bpf_stack_map
	ringHeader    = 12288 // struct bpf_ringbuf: three pages of 4 KiB
	bucket        = 16    // struct bucket
	hashElement   = 48    // struct htab_elem
	trieNode      = 40    // struct lpm_trie_node
	stackBucket   = 16    // struct stack_map_bucket
	pointer       = 8
	percpuLargest = 32 << 10 // PCPU_MIN_UNIT_SIZE, of one value
)

// MapMemory is the memory of a map, in bytes.
type MapMemory struct {
	// Created is what is taken when the map is created, Full what it has with all of
	// its elements.
	Created, Full int64
	// Charged is what a kernel before 5.11 holds against RLIMIT_MEMLOCK: always for all
	// elements (bpf_map_charge_init()).
	Charged int64
	// Largest is the largest piece that is allocated at once. More than the machine has
	// is refused without trying (__vmalloc_node_range()).
	Largest int64
}

// TooMuchToCharge reports whether a kernel that charges maps to users refuses to count so
// much, with E2BIG and whatever the limit (bpf_map_charge_init()).
func (mem MapMemory) TooMuchToCharge(pageSize uint64) bool {
	return mem.Charged >= 1<<32-1-int64(pageSize)
}

// Memory computes what a map takes. Not ok: of this type it is not known here.
func (m Map) Memory(on MapMachine) (mem MapMemory, ok bool) {
	n := int64(m.MaxEntries)
	value := int64(roundUp(uint64(m.ValueSize), 8))
	cpus := int64(on.PossibleCPUs)
	switch m.Type {
	case unix.BPF_MAP_TYPE_HASH, unix.BPF_MAP_TYPE_LRU_HASH, unix.BPF_MAP_TYPE_HASH_OF_MAPS,
		unix.BPF_MAP_TYPE_PERCPU_HASH, unix.BPF_MAP_TYPE_LRU_PERCPU_HASH:
		return m.hash(cpus), true
	case unix.BPF_MAP_TYPE_ARRAY, unix.BPF_MAP_TYPE_PROG_ARRAY, unix.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
		unix.BPF_MAP_TYPE_CGROUP_ARRAY, unix.BPF_MAP_TYPE_ARRAY_OF_MAPS:
		if m.Flags&unix.BPF_F_MMAPABLE != 0 {
			return atOnce(int64(roundUp(mapHeader, on.PageSize) + roundUp(uint64(m.rounded(on)*value), on.PageSize))), true
		}
		return atOnce(mapHeader + m.rounded(on)*value), true
	case unix.BPF_MAP_TYPE_PERCPU_ARRAY:
		mem := atOnce(mapHeader + m.rounded(on)*pointer)
		mem.Created += n * value * cpus
		mem.Full, mem.Charged = mem.Created, mem.Created
		return mem, true
	case unix.BPF_MAP_TYPE_RINGBUF, unix.BPF_MAP_TYPE_USER_RINGBUF:
		// Page by page; what is one piece is the array of pointers to them.
		bytes := mapHeader + int64(roundUp(ringHeader, on.PageSize)) + n
		return MapMemory{Created: bytes, Full: bytes, Charged: bytes, Largest: 2 * n / int64(on.PageSize) * pointer}, true
	case unix.BPF_MAP_TYPE_LPM_TRIE:
		full := mapHeader + n*(trieNode+int64(m.ValueSize)+max(0, int64(m.KeySize)-4))
		return MapMemory{Created: mapHeader, Full: full, Charged: full, Largest: mapHeader}, true
	case unix.BPF_MAP_TYPE_QUEUE, unix.BPF_MAP_TYPE_STACK:
		return atOnce(mapHeader + (n+1)*int64(m.ValueSize)), true
	case unix.BPF_MAP_TYPE_STACK_TRACE:
		buckets := int64(powerOfTwo(uint64(n)))
		table, elements := mapHeader+buckets*pointer, n*(stackBucket+int64(m.ValueSize))
		return MapMemory{Created: table + elements, Full: table + elements, Charged: table + elements, Largest: max(table, elements)}, true
	}
	if m.pointsTo() {
		return atOnce(mapHeader + n*pointer), true // what they point to comes with the elements
	}
	return MapMemory{}, false
}

// pointsTo reports whether the map is an array of pointers to devices, CPUs or sockets.
func (m Map) pointsTo() bool {
	switch m.Type {
	case unix.BPF_MAP_TYPE_DEVMAP, unix.BPF_MAP_TYPE_CPUMAP, unix.BPF_MAP_TYPE_SOCKMAP, unix.BPF_MAP_TYPE_XSKMAP, unix.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY:
		return true
	}
	return false
}

// atOnce is a map of one piece.
func atOnce(bytes int64) MapMemory {
	return MapMemory{Created: bytes, Full: bytes, Charged: bytes, Largest: bytes}
}

// rounded is the number of an array's elements that there is room for.
func (m Map) rounded(on MapMachine) int64 {
	if on.SpeculationSafe {
		return int64(powerOfTwo(uint64(m.MaxEntries)))
	}
	return int64(m.MaxEntries)
}

// hash is htab_map_alloc().
func (m Map) hash(cpus int64) MapMemory {
	n, value := int64(m.MaxEntries), int64(roundUp(uint64(m.ValueSize), 8))
	percpu := m.Type == unix.BPF_MAP_TYPE_PERCPU_HASH || m.Type == unix.BPF_MAP_TYPE_LRU_PERCPU_HASH
	lru := m.Type == unix.BPF_MAP_TYPE_LRU_HASH || m.Type == unix.BPF_MAP_TYPE_LRU_PERCPU_HASH
	if m.Flags&unix.BPF_F_NO_COMMON_LRU != 0 && cpus > 0 {
		n = (n + cpus - 1) / cpus * cpus
	}
	buckets := int64(powerOfTwo(uint64(n))) * bucket
	element := hashElement + int64(roundUp(uint64(m.KeySize), 8))
	mem := MapMemory{}
	if percpu {
		element += pointer
		mem.Charged = buckets + element*n + value*cpus*n
	} else {
		element += value
		mem.Charged = buckets + element*(n+cpus)
	}
	spare := cpus // elements for updates in place
	if percpu || lru {
		spare = 0
	}
	elements := element * (n + spare)
	mem.Full = buckets + elements
	if percpu {
		mem.Full += value * cpus * n
	}
	mem.Created, mem.Largest = mem.Full, max(buckets, elements)
	if m.Flags&unix.BPF_F_NO_PREALLOC != 0 {
		mem.Created, mem.Largest = buckets, buckets
	}
	return mem
}

// Charge is what a kernel before 5.11 asks for, in pages, to create the map; ok as for
// Memory, but for arrays of pointers, of which each kernel counts other parts: Debian's 5.10
// asks for nothing for devices.
func (m Map) Charge(on MapMachine) (pages int64, ok bool) {
	mem, ok := m.Memory(on)
	if !ok || m.pointsTo() {
		return 0, false
	}
	return pagesOf(uint64(mem.Charged), on.PageSize), true
}

// MapSize is what is wrong with a map's size.
type MapSize uint8

// What may be wrong.
const (
	MapFits              MapSize = iota
	MapKeyTooLarge               // E2BIG: more than a program's stack holds, or than one allocation
	MapValueTooLarge             // E2BIG: more than one allocation
	MapPercpuTooLarge            // E2BIG, and ENOMEM before that: more than the allocator for values of each CPU takes (pcpu_alloc())
	MapTooMany                   // E2BIG: more elements than their numbers can count
	MapLargerThanMachine         // ENOMEM: one piece of it has more bytes than the machine has memory
)

// SizeKnown reports whether Size knows all that is too large of maps of the type.
func (m Map) SizeKnown() bool {
	switch m.Type {
	case unix.BPF_MAP_TYPE_HASH, unix.BPF_MAP_TYPE_LRU_HASH, unix.BPF_MAP_TYPE_PERCPU_HASH, unix.BPF_MAP_TYPE_LRU_PERCPU_HASH,
		unix.BPF_MAP_TYPE_ARRAY, unix.BPF_MAP_TYPE_PERCPU_ARRAY:
		return true
	}
	return false
}

// KeyBeyondStack reports whether a hash's key has more bytes than a program's stack: E2BIG
// where maps are charged to users (until c6bde958a62b in 5.11).
func (m Map) KeyBeyondStack() bool {
	switch m.Type {
	case unix.BPF_MAP_TYPE_HASH, unix.BPF_MAP_TYPE_LRU_HASH, unix.BPF_MAP_TYPE_PERCPU_HASH, unix.BPF_MAP_TYPE_LRU_PERCPU_HASH:
		return m.KeySize > 512
	}
	return false
}

// Size holds a map's sizes against what the kernel takes at the most, whatever the limits.
// machine is the machine's memory in bytes; 0: not known.
func (m Map) Size(on MapMachine, machine int64) MapSize {
	largest := uint32(largestBlock(on.PageSize)) // KMALLOC_MAX_SIZE
	switch m.Type {
	case unix.BPF_MAP_TYPE_HASH, unix.BPF_MAP_TYPE_LRU_HASH, unix.BPF_MAP_TYPE_PERCPU_HASH, unix.BPF_MAP_TYPE_LRU_PERCPU_HASH:
		switch {
		case m.KeySize >= largest-hashElement:
			return MapKeyTooLarge
		case uint64(m.KeySize)+uint64(m.ValueSize) >= uint64(largest)-hashElement:
			return MapValueTooLarge
		case m.MaxEntries > 1<<31, powerOfTwo(uint64(m.MaxEntries)) > (1<<32-1)/bucket:
			return MapTooMany
		}
	case unix.BPF_MAP_TYPE_ARRAY, unix.BPF_MAP_TYPE_PERCPU_ARRAY:
		if m.ValueSize > 1<<31-1 {
			return MapValueTooLarge
		}
		if on.SpeculationSafe && powerOfTwo(uint64(m.MaxEntries)) > 1<<32-1 {
			return MapTooMany
		}
	}
	switch m.Type {
	case unix.BPF_MAP_TYPE_PERCPU_ARRAY, unix.BPF_MAP_TYPE_PERCPU_HASH, unix.BPF_MAP_TYPE_LRU_PERCPU_HASH:
		if roundUp(uint64(m.ValueSize), 8) > percpuLargest {
			return MapPercpuTooLarge
		}
	}
	if mem, ok := m.Memory(on); ok && machine > 0 && mem.Largest > machine {
		return MapLargerThanMachine
	}
	return MapFits
}

package rule

import (
	"testing"

	"golang.org/x/sys/unix"
)

const fourKiB = 4096

func TestCharge(t *testing.T) {
	for name, c := range map[string]struct {
		charge  Charge
		refused bool
		over    int64
		fits    int64
	}{
		"a ring's first region beside 476 pages of perf buffers": {Charge{Asked: 1, Held: 476, Limit: 128}, true, 349, 0},
		"the same for another user":                              {Charge{Asked: 1, Limit: 128}, false, -127, 128},
		"a send of 60 KiB":                                       {Charge{Asked: 17, Limit: 16}, true, 1, 0},
		"a send of 56 KiB":                                       {Charge{Asked: 16, Limit: 16}, false, 0, 1},
		"the second send of 28 KiB":                              {Charge{Asked: 9, Held: 9, Limit: 16}, true, 2, 0},
		"the second of two maps":                                 {Charge{Asked: 11, Held: 11, Limit: 16}, true, 6, 0},
		"its first":                                              {Charge{Asked: 11, Limit: 16}, false, -5, 1},
		"a capability":                                           {Charge{Asked: 17, Limit: 16, Exempt: true}, false, 1, NoLimit},
		"no limit":                                               {Charge{Asked: 17, Held: 1 << 30, Limit: Unlimited}, false, 1<<30 + 17 - Unlimited, NoLimit},
		"a limit of nothing":                                     {Charge{Asked: 1}, true, 1, 0},
		"nothing asked for":                                      {Charge{Held: 20, Limit: 16}, false, 4, NoLimit},
		"a negative counter":                                     {Charge{Asked: 1, Held: -2, Limit: 16}, true, -17, 0},
		"a negative counter, made up for":                        {Charge{Asked: 4, Held: -2, Limit: 16}, false, -14, 4},
		"the limit was lowered":                                  {Charge{Asked: 1, Held: 20, Limit: 16}, true, 5, 0},
	} {
		if got := c.charge.Refused(); got != c.refused {
			t.Errorf("%s: refused %v", name, got)
		}
		if got := c.charge.Over(); got != c.over {
			t.Errorf("%s: over by %d; want %d", name, got, c.over)
		}
		if got := c.charge.Fits(); got != c.fits {
			t.Errorf("%s: %d fit; want %d", name, got, c.fits)
		}
	}
}

// As many as fit succeed, and no more; and with the limit that suffices, as many as wanted.
func TestChargesOneAfterAnother(t *testing.T) {
	for held := int64(-9); held < 40; held += 7 {
		for asked := int64(1); asked < 20; asked += 3 {
			for limit := int64(0); limit < 60; limit++ {
				charge := Charge{Asked: asked, Held: held, Limit: limit}
				var done int64
				for c := charge; !c.Refused(); c.Held += asked {
					done++
				}
				if fits := charge.Fits(); fits != done {
					t.Fatalf("%+v: %d fit; %d did", charge, fits, done)
				}
			}
			if held < 0 {
				continue // fewer pages than that are held by no one
			}
			for n := int64(1); n < 5; n++ {
				charge := Charge{Asked: asked, Held: held}
				charge.Limit = charge.Suffices(n)
				if charge.Fits() != n {
					t.Errorf("%+v: %d fit; want %d", charge, charge.Fits(), n)
				}
				if charge.Limit--; charge.Fits() >= n {
					t.Errorf("%+v: a page less suffices, too", charge)
				}
			}
		}
	}
}

func TestRegisteredPages(t *testing.T) {
	const huge = 2 << 20
	for name, c := range map[string]struct {
		vectors []Vector
		want    []int64
	}{
		"aligned":                      {[]Vector{{Address: 1 << 20, Bytes: 4096}}, []int64{1}},
		"not aligned":                  {[]Vector{{Address: 1<<20 + 16, Bytes: 4096}}, []int64{2}},
		"inside of a page":             {[]Vector{{Address: 1<<20 + 16, Bytes: 4080}}, []int64{1}},
		"one byte":                     {[]Vector{{Address: 1<<20 + 4095, Bytes: 1}}, []int64{1}},
		"nothing":                      {[]Vector{{Address: 1 << 20}}, []int64{0}},
		"a page twice":                 {[]Vector{{Address: 1 << 20, Bytes: 16}, {Address: 1<<20 + 32, Bytes: 16}}, []int64{1, 1}},
		"a bit of a huge page":         {[]Vector{{huge, 4096, huge}}, []int64{512}},
		"two bits of a huge page":      {[]Vector{{huge, 4096, huge}, {huge + 8192, 4096, huge}}, []int64{512, 0}},
		"over two huge pages":          {[]Vector{{2*huge - 8, 16, huge}}, []int64{1024}},
		"the second one again":         {[]Vector{{2*huge - 8, 16, huge}, {2 * huge, huge, huge}, {3 * huge, 1, huge}}, []int64{1024, 0, 512}},
		"nine buffers, not aligned":    {unaligned(9), []int64{2, 2, 2, 2, 2, 2, 2, 2, 2}},
		"1 GiB, the largest there are": {[]Vector{{Address: 1 << 30, Bytes: 1 << 30}}, []int64{262144}},
	} {
		got := RegisteredPages(c.vectors, fourKiB)
		for i, want := range c.want {
			if got[i] != want {
				t.Errorf("%s: buffer %d: %d pages; want %d", name, i, got[i], want)
			}
		}
	}
}

// unaligned are buffers of a page each that lie 16 bytes behind the beginning of one.
func unaligned(n int) (list []Vector) {
	for i := range n {
		list = append(list, Vector{Address: 1<<20 + uint64(i)*fourKiB + 16, Bytes: fourKiB})
	}
	return list
}

// Nine buffers against 16 pages: eight fit where the ring is free, seven where it takes two.
func TestUnalignedBuffersOfARing(t *testing.T) {
	asked := BufferPages(unaligned(1)[0], fourKiB)
	if got := (Charge{Asked: asked, Limit: 16}).Fits(); got != 8 {
		t.Errorf("%d fit; want 8", got)
	}
	rings, entries := Ring{Entries: 4}.Regions(fourKiB)
	charge := Charge{Asked: asked, Held: rings + entries, Limit: 16}
	if got := charge.Fits(); got != 7 {
		t.Errorf("beside a ring, %d fit; want 7", got)
	}
	if got := charge.Suffices(9); got != 20 { // ulimit -l 80
		t.Errorf("%d pages suffice for all nine; want 20", got)
	}
	if got := (Charge{Asked: asked}).Suffices(9); got != 18 { // ulimit -l 72
		t.Errorf("%d pages suffice for all nine; want 18", got)
	}
}

func TestRing(t *testing.T) {
	for name, c := range map[string]struct {
		ring                  Ring
		rings, entries        uint64
		ok                    bool
		ringPages, entryPages int64
		ringBlock, entryBlock int64
	}{
		"smallest":          {ring: Ring{Entries: 1}, rings: 388, entries: 64, ok: true, ringPages: 1, entryPages: 1, ringBlock: 1, entryBlock: 1},
		"32":                {ring: Ring{Entries: 32}, rings: 320 + 1024 + 128, entries: 2048, ok: true, ringPages: 1, entryPages: 1, ringBlock: 1, entryBlock: 1},
		"rounded up":        {ring: Ring{Entries: 33}, rings: 320 + 2048 + 256, entries: 4096, ok: true, ringPages: 1, entryPages: 1, ringBlock: 1, entryBlock: 1},
		"4096":              {ring: Ring{Entries: 4096}, rings: 320 + 131072 + 16384, entries: 262144, ok: true, ringPages: 37, entryPages: 64, ringBlock: 64, entryBlock: 64},
		"largest":           {ring: Ring{Entries: 32768}, rings: 320 + 1048576 + 131072, entries: 2 << 20, ok: true, ringPages: 289, entryPages: 512, ringBlock: 512, entryBlock: 512},
		"one too many":      {ring: Ring{Entries: 32769}},
		"none":              {ring: Ring{}},
		"completions":       {ring: Ring{Entries: 8, CompletionEntries: 100, Flags: RingSetCQ}, rings: 320 + 2048 + 32, entries: 512, ok: true, ringPages: 1, entryPages: 1, ringBlock: 1, entryBlock: 1},
		"fewer completions": {ring: Ring{Entries: 8, CompletionEntries: 4, Flags: RingSetCQ}},
		"no completions":    {ring: Ring{Entries: 8, Flags: RingSetCQ}},
		"large entries":     {ring: Ring{Entries: 64, Flags: RingSQE128 | RingCQE32}, rings: 320 + 4096 + 256, entries: 8192, ok: true, ringPages: 2, entryPages: 2, ringBlock: 2, entryBlock: 2},
		"no array":          {ring: Ring{Entries: 32, Flags: RingNoArray}, rings: 320 + 1024, entries: 2048, ok: true, ringPages: 1, entryPages: 1, ringBlock: 1, entryBlock: 1},
	} {
		rings, entries, ok := c.ring.Bytes()
		if rings != c.rings || entries != c.entries || ok != c.ok {
			t.Errorf("%s: %d and %d bytes, %v; want %d and %d, %v", name, rings, entries, ok, c.rings, c.entries, c.ok)
		}
		if !ok {
			continue
		}
		if a, b := c.ring.Regions(fourKiB); a != c.ringPages || b != c.entryPages {
			t.Errorf("%s: regions of %d and %d pages; want %d and %d", name, a, b, c.ringPages, c.entryPages)
		}
		if a, b := c.ring.Blocks(fourKiB); a != c.ringBlock || b != c.entryBlock {
			t.Errorf("%s: blocks of %d and %d pages; want %d and %d", name, a, b, c.ringBlock, c.entryBlock)
		}
	}
}

func TestZeroCopy(t *testing.T) {
	for bytes, want := range map[uint64]int64{0: 0, 1: 2, 4095: 2, 4096: 3, 28672: 9, 57344: 16, 61439: 16, 61440: 17} {
		if got := ZeroCopyPages(bytes, fourKiB); got != want {
			t.Errorf("%d bytes: %d pages; want %d", bytes, got, want)
		}
	}
	for pages := int64(-1); pages < 40; pages++ {
		largest := LargestZeroCopy(pages, fourKiB)
		if largest > 0 && ZeroCopyPages(largest, fourKiB) > pages || ZeroCopyPages(largest+1, fourKiB) <= pages {
			t.Errorf("%d pages: %d bytes are not the largest send", pages, largest)
		}
	}
}

func TestUmemPages(t *testing.T) {
	for bytes, want := range map[uint64]int64{4096: 1, 6144: 2, 16 << 20: 4096} {
		if got := UmemPages(bytes, fourKiB); got != want {
			t.Errorf("%d bytes: %d pages; want %d", bytes, got, want)
		}
	}
}

func TestLargestBuffer(t *testing.T) {
	for pageSize, want := range map[uint64]int64{4096: 262144, 16384: 2097152, 65536: 33554432} {
		if got := LargestData(pageSize); got != want {
			t.Errorf("pages of %d bytes: %d data pages; want %d", pageSize, got, want)
		}
		if got := LargestAUX(pageSize); got != 2*want {
			t.Errorf("pages of %d bytes: %d AUX pages; want %d", pageSize, got, 2*want)
		}
	}
}

func TestChargersAreTold(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Chargers() {
		if seen[c.Name] || c.Function == "" || c.Errno == 0 || c.Counter.String() == "" {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
}

// machine4 has four CPUs.
func machine4() MapMachine { return MapMachine{PageSize: fourKiB, PossibleCPUs: 4} }

func TestMapMemory(t *testing.T) {
	array := func(value, n uint32) Map { return Map{unix.BPF_MAP_TYPE_ARRAY, 4, value, n, 0} }
	for name, c := range map[string]struct {
		m     Map
		on    MapMachine
		pages int64 // charged before 5.11
		want  MapMemory
	}{
		"of a boot-time service": {Map{unix.BPF_MAP_TYPE_HASH, 9, 1, 500, 0}, machine4(), 11, MapMemory{44480, 44480, 44480, 36288}},
		"sessions":               {Map{unix.BPF_MAP_TYPE_HASH, 4, 200, 1000, 0}, machine4(), 67, MapMemory{273408, 273408, 273408, 257024}},
		"not allocated before":   {Map{unix.BPF_MAP_TYPE_HASH, 4, 200, 1000, unix.BPF_F_NO_PREALLOC}, machine4(), 67, MapMemory{16384, 273408, 273408, 16384}},
		"larger than a machine":  {Map{unix.BPF_MAP_TYPE_HASH, 8, 256, 2097152, 0}, machine4(), 167937, MapMemory{687867104, 687867104, 687867104, 654312672}},
		"LRU":                    {Map{unix.BPF_MAP_TYPE_LRU_HASH, 4, 200, 1000, 0}, machine4(), 67, MapMemory{272384, 272384, 273408, 256000}},
		"percpu hash":            {Map{unix.BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 1024, 0}, machine4(), 28, MapMemory{114688, 114688, 114688, 65536}},
		"array of a page each":   {array(4096, 300), machine4(), 301, MapMemory{1229120, 1229120, 1229120, 1229120}},
		"array with rounding":    {array(4096, 300), MapMachine{PageSize: fourKiB, PossibleCPUs: 4, SpeculationSafe: true}, 513, MapMemory{2097472, 2097472, 2097472, 2097472}},
		"array to be mapped":     {Map{unix.BPF_MAP_TYPE_ARRAY, 4, 8, 1024, unix.BPF_F_MMAPABLE}, machine4(), 3, MapMemory{12288, 12288, 12288, 12288}},
		"percpu array":           {Map{unix.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 10000, 0}, machine4(), 98, MapMemory{400320, 400320, 400320, 80320}},
		"ring buffer":            {Map{unix.BPF_MAP_TYPE_RINGBUF, 0, 0, 65536, 0}, machine4(), 20, MapMemory{78144, 78144, 78144, 256}},
		"trie":                   {Map{unix.BPF_MAP_TYPE_LPM_TRIE, 8, 8, 1024, unix.BPF_F_NO_PREALLOC}, machine4(), 14, MapMemory{320, 53568, 53568, 320}},
		"queue":                  {Map{unix.BPF_MAP_TYPE_QUEUE, 0, 8, 1023, 0}, machine4(), 3, MapMemory{8512, 8512, 8512, 8512}},
		"sockets":                {Map{unix.BPF_MAP_TYPE_SOCKMAP, 4, 4, 1024, 0}, machine4(), 0, MapMemory{8512, 8512, 8512, 8512}},
		"stack traces":           {Map{unix.BPF_MAP_TYPE_STACK_TRACE, 4, 1016, 1000, 0}, machine4(), 255, MapMemory{1040512, 1040512, 1040512, 1032000}},
	} {
		got, ok := c.m.Memory(c.on)
		if !ok || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, ok, c.want)
		}
		if pages, _ := c.m.Charge(c.on); pages != c.pages {
			t.Errorf("%s: %d pages; want %d", name, pages, c.pages)
		}
	}
	if _, ok := (Map{Type: unix.BPF_MAP_TYPE_SOCKHASH}).Memory(machine4()); ok {
		t.Error("the memory of a type that is not known is known")
	}
}

func TestMapSize(t *testing.T) {
	const machine = 512 << 20
	for name, c := range map[string]struct {
		m    Map
		want MapSize
	}{
		"devices":                   {Map{unix.BPF_MAP_TYPE_DEVMAP, 4, 4, 1 << 29, 0}, MapLargerThanMachine},
		"small":                     {Map{unix.BPF_MAP_TYPE_HASH, 9, 1, 500, 0}, MapFits},
		"larger than the machine":   {Map{unix.BPF_MAP_TYPE_HASH, 8, 256, 2097152, 0}, MapLargerThanMachine},
		"in pieces":                 {Map{unix.BPF_MAP_TYPE_HASH, 8, 256, 2097152, unix.BPF_F_NO_PREALLOC}, MapFits},
		"a value of each CPU":       {Map{unix.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 32769, 1, 0}, MapPercpuTooLarge},
		"the largest of each CPU":   {Map{unix.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 32768, 1, 0}, MapFits},
		"a value in a hash of CPUs": {Map{unix.BPF_MAP_TYPE_PERCPU_HASH, 4, 40000, 1, 0}, MapPercpuTooLarge},
		"a value":                   {Map{unix.BPF_MAP_TYPE_HASH, 4, 4 << 20, 1, 0}, MapValueTooLarge},
		"a key":                     {Map{unix.BPF_MAP_TYPE_HASH, 4 << 20, 4, 1, 0}, MapKeyTooLarge},
		"an array's value":          {Map{unix.BPF_MAP_TYPE_ARRAY, 4, 1 << 31, 1, 0}, MapValueTooLarge},
		"buckets":                   {Map{unix.BPF_MAP_TYPE_HASH, 4, 4, 1 << 30, 0}, MapTooMany},
	} {
		if got := c.m.Size(machine4(), machine); got != c.want {
			t.Errorf("%s: %d; want %d", name, got, c.want)
		}
	}
	// arm64 with pages of 16 KiB made a map with values of 4 MiB (6.12): it allocates up to 32 MiB.
	for size, want := range map[uint32]MapSize{4 << 20: MapFits, 32 << 20: MapValueTooLarge} {
		if got := (Map{unix.BPF_MAP_TYPE_HASH, 4, size, 1, 0}).Size(MapMachine{PageSize: 16384, PossibleCPUs: 4}, machine); got != want {
			t.Errorf("values of %d bytes, pages of 16 KiB: %d; want %d", size, got, want)
		}
	}
	if got := (Map{unix.BPF_MAP_TYPE_HASH, 8, 256, 2097152, 0}).Size(machine4(), 0); got != MapFits {
		t.Error("larger than a machine of which nothing is known")
	}
}

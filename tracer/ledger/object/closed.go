package object

import (
	"cmp"
	"slices"
)

// What is a kind of what holds pages of a user's counter.
type What string

// The kinds that are released later than they are closed. The first two are chargers by name.
const (
	Ring    What = "io_uring"
	Umem    What = "xdp"
	Map     What = "bpf_map"
	Program What = "bpf_prog"
)

// Instance is an io_uring or an AF_XDP umem.
type Instance struct {
	Key   uint64 // identifies it within a trace, and may be used again; 0: not known
	Pages int64  // of a umem that is closed, by its own record; 0: it has none
}

// User names a user's counter. Split is locked_vm where perf has a counter of its own.
type User struct {
	UID   uint32
	Split bool
}

// Closing is the end of the last reference to something.
type Closing struct {
	Key    uint64
	User   User
	What   What
	PID    uint32 // in which process that was; 0: in none
	TimeNS uint64
	// Pages are what it holds by its own record; 0: what it was seen to be charged.
	// Charged is that, where the caller knows it.
	Pages, Charged int64
}

// Closed are things of one kind that one process has closed, and that are not released.
type Closed struct {
	What  What   `json:"what"`
	PID   uint32 `json:"pid"` // 0: not known
	Count int    `json:"count"`
	Pages int64  `json:"pages"`  // of a user's counter
	Bytes int64  `json:"bytes"`  // of a memory cgroup's
	AgeNS uint64 `json:"age_ns"` // since the first of them was closed
}

type thing struct {
	id      uint64
	user    User
	what    What
	charged int64    // during the trace
	closed  *Closing // nil: it is open
}

func (t *thing) pages() int64 {
	if t.closed != nil && t.closed.Pages != 0 {
		return t.closed.Pages
	}
	return t.charged
}

// Book knows what is closed and not yet released. It claims nothing of which the release may
// have gone unseen: when a user's counter moved and no event tells why, all that it knew of
// the user is forgotten.
type Book struct {
	things map[uint64]*thing
	// given is what was released of a user's, while the counter's readings do not say so yet.
	given map[User]int64
	last  uint64
}

// most bounds the memory for what is charged, and the search at a refusal.
const most = 4096

// NewBook returns an empty book.
func NewBook() *Book { return &Book{things: map[uint64]*thing{}, given: map[User]int64{}} }

// Forget forgets all, after events were lost.
func (b *Book) Forget() {
	clear(b.things)
	clear(b.given)
}

// find is what has the key, if it can be that: addresses are used again.
func (b *Book) find(key uint64, user User, what What) *thing {
	t := b.things[key]
	if t != nil && (t.user != user || t.what != what) {
		delete(b.things, key)
		return nil
	}
	return t
}

func (b *Book) add(key uint64, user User, what What) *thing {
	if len(b.things) >= most {
		b.Forget()
	}
	b.last++
	t := &thing{id: b.last, user: user, what: what}
	b.things[key] = t
	return t
}

// Charged enters pages that a ring or a umem was charged, or gave back. They are not known
// where something else moved the counter at the same time. It returns the thing's number; 0:
// it has none.
func (b *Book) Charged(key uint64, user User, what What, pages int64, known bool) (id uint64) {
	if key == 0 {
		if what == Ring && pages < 0 { // it may be one of those here
			b.doubt(user)
		}
		return 0
	}
	t := b.find(key, user, what)
	if t != nil && t.closed != nil && pages > 0 { // another one at the same address
		delete(b.things, key)
		t = nil
	}
	switch {
	case t == nil && pages < 0: // it is older than the trace: a number for what reads a recording
		b.last++
		return b.last
	case t == nil && pages == 0:
		return 0
	case t == nil:
		t = b.add(key, user, what)
	case !known:
		if t.closed != nil {
			b.given[user] += t.pages()
		}
		delete(b.things, key)
		return t.id
	}
	t.charged += pages
	if t.closed != nil && t.closed.Pages != 0 {
		t.closed.Pages = max(0, t.closed.Pages+pages)
	}
	if t.pages() <= 0 {
		delete(b.things, key)
	}
	return t.id
}

// Close enters a closing, and returns the thing's number; 0: it has none. The first of several
// counts.
func (b *Book) Close(c Closing) (id uint64) {
	t := b.find(c.Key, c.User, c.What)
	switch {
	case c.Key == 0: // one of the user's, and which is not known
		b.doubt(c.User)
		return 0
	case t == nil && c.Pages <= 0:
		b.last++
		return b.last
	case t == nil:
		t = b.add(c.Key, c.User, c.What)
		t.charged = c.Charged
	}
	if t.closed == nil {
		t.closed = &c
	}
	return t.id
}

// Gone is for what was released.
func (b *Book) Gone(key uint64) { delete(b.things, key) }

// IsClosed reports whether something is closed and not released.
func (b *Book) IsClosed(key uint64) bool {
	t := b.things[key]
	return t != nil && t.closed != nil
}

// Moved takes by how much a user's counter moved without an event that tells why.
func (b *Book) Moved(user User, pages int64) {
	if pages == 0 && len(b.given) == 0 {
		return
	}
	if pages != -b.given[user] {
		b.doubt(user)
	}
	delete(b.given, user)
}

// doubt forgets a user.
func (b *Book) doubt(user User) {
	for key, t := range b.things {
		if t.user == user {
			delete(b.things, key)
		}
	}
	delete(b.given, user)
}

// Of is what a user has closed that is not released, what holds the most first. others and
// objects are the parts of it that were charged during the trace: to rings and umems, and to
// BPF objects.
func (b *Book) Of(user User, nowNS uint64) (closed []Closed, others, objects int64) {
	var list List
	for _, t := range b.things {
		if t.user != user || t.closed == nil {
			continue
		}
		charged := min(t.charged, t.pages())
		if t.what == Ring || t.what == Umem {
			others += charged
		} else {
			objects += charged
		}
		list.Add(Closed{What: t.what, PID: t.closed.PID, Count: 1, Pages: t.pages(), AgeNS: max(nowNS, t.closed.TimeNS) - t.closed.TimeNS})
	}
	return list.Sorted(), others, objects
}

// List sums up what is closed, by kind and process.
type List []Closed

// Add adds to the list.
func (l *List) Add(c Closed) {
	i := slices.IndexFunc(*l, func(have Closed) bool { return have.What == c.What && have.PID == c.PID })
	if i < 0 {
		*l = append(*l, c)
		return
	}
	have := &(*l)[i]
	have.Count += c.Count
	have.Pages += c.Pages
	have.Bytes += c.Bytes
	have.AgeNS = max(have.AgeNS, c.AgeNS)
}

// Sorted has what holds the most first.
func (l List) Sorted() []Closed {
	slices.SortFunc(l, func(a, b Closed) int {
		return cmp.Or(cmp.Compare(b.Pages, a.Pages), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.What, b.What), cmp.Compare(a.PID, b.PID))
	})
	return l
}

// Bytes is the sum of a list of memory cgroups' objects.
func Bytes(list []Closed) (sum int64) {
	for _, c := range list {
		sum += c.Bytes
	}
	return sum
}

// Pages is the sum of a list of a user's.
func Pages(list []Closed) (sum int64) {
	for _, c := range list {
		sum += c.Pages
	}
	return sum
}

package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/output/top/trend"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// The views, in their order on the screen.
const (
	viewProcesses = iota
	viewUsers
	viewCgroups
	viewObjects
	viewEvents
	viewCount
)

// tone says how much a row wants to be seen.
type tone uint8

const (
	toneNormal  tone = iota
	toneQuiet        // gone, or of no consequence
	toneRefused      // or of an uncertain verdict
	toneBroken
)

func views() [viewCount]table {
	return [viewCount]table{processView(), userView(), cgroupView(), objectView(), eventView()}
}

// ViewNames are the names of the views, in their order.
func ViewNames() []string {
	var names []string
	for _, v := range views() {
		names = append(names, v.name())
	}
	return names
}

// ColumnNames are the names of a view's columns; nil: there is no such view.
func ColumnNames(view string) (names []string) {
	v, err := indexOf(view, ViewNames(), "view")
	if err != nil {
		return nil
	}
	for _, h := range views()[v].headings() {
		names = append(names, h.name)
	}
	return names
}

// processRow is one row of the processes.
type processRow struct {
	*process
	container string
	allowance int64
	fits      int64 // -1: no limit
}

const (
	helpShare      = "pages of the user's allowance that its buffers take"
	helpFits       = "how many more buffers of its last size fit before EPERM"
	helpRefused    = "mappings refused with EPERM"
	helpRate       = "ledger entries per second"
	helpOver       = "pages charged beyond the right charge, ever"
	helpVerdict    = "the last rule that the kernel broke here; refused: EPERM, by the rules"
	helpBuffers    = "areas of perf buffers that are mapped"
	helpPinned     = "mm_struct.pinned_vm: what was charged to the process"
	helpPinnedMany = "mm_struct.pinned_vm of all of them"
)

func processView() *view[processRow] {
	return &view[processRow]{
		title: "processes",
		sort:  "PINNED_VM",
		columns: []column[processRow]{
			identity("PID", 7, 1, "", func(p *processRow) uint32 { return p.pid }),
			word("COMM", 12, 1, 2, "", func(p *processRow) string { return format.Printable(p.comm) }),
			identity("UID", 6, 8, "", func(p *processRow) uint32 { return p.uid }),
			amount("PINNED_VM", 10, 2, helpPinned, func(p *processRow) int64 { return p.pinned }),
			{heading: heading{name: "LOCK_LIMIT", width: 10, rank: 4, help: "RLIMIT_MEMLOCK; none: nothing limits this process"}, text: limitText,
				compare: func(a, b *processRow) int { return cmp.Compare(a.ceiling(), b.ceiling()) }},
			bar("USED", 5, "PINNED_VM of LOCK_LIMIT", (*processRow).used),
			amount("USER_SHARE", 10, 9, helpShare, func(p *processRow) int64 { return p.share }),
			number("BUFS", 5, 6, helpBuffers, func(p *processRow) int64 { return p.buffers }),
			number("OVERCHARGED", 11, 7, helpOver, func(p *processRow) int64 { return p.overcharged }),
			fitsColumn(func(p *processRow) int64 { return p.fits }),
			number("REFUSED", 7, 5, helpRefused, func(p *processRow) int64 { return int64(p.refusals) }),
			rateColumn(func(p *processRow) float64 { return p.rate.perSecond }),
			word("VERDICT", 15, 0, 3, helpVerdict, func(p *processRow) string { return verdictText(p.broken, p.refusals, p.events) }),
			trendColumn("PINNED_VM", func(p *processRow) trend.Series { return p.trend }),
			word("CGROUP", 16, 3, 12, "or the container, where it is known", func(p *processRow) string { return cgroupText(p.cgroup, p.cgroupID, p.container) }),
		},
		rows: processRows,
		id:   func(p *processRow) string { return strconv.FormatUint(uint64(p.pid), 10) },
		tone: func(p *processRow) tone { return toneOf(p.broken, p.refusals, p.gone) },
	}
}

func processRows(a *accounts, all bool) []processRow {
	held := sharesByUser(a)
	rows := make([]processRow, 0, len(a.processes))
	for _, p := range a.processes {
		if !all && p.idle() {
			continue
		}
		locked, _ := a.lockedOf(p.uid, held[p.uid])
		rows = append(rows, processRow{process: p, container: a.containers[p.cgroup], allowance: a.limits.Allowance, fits: a.fits(p, locked)})
	}
	slices.SortFunc(rows, func(x, y processRow) int { return cmp.Compare(x.pid, y.pid) })
	return rows
}

// sharesByUser is what the buffers of each user's processes take of its
// allowance.
func sharesByUser(a *accounts) map[uint32]int64 {
	held := make(map[uint32]int64, len(a.users))
	for _, p := range a.processes {
		held[p.uid] += p.share
	}
	return held
}

// ceiling is the limit as a number to sort by.
func (p *processRow) ceiling() int64 {
	if p.limit >= rule.Unlimited || p.capIPCLock {
		return rule.Unlimited
	}
	return p.limit
}

func limitText(p *processRow, u units) string {
	switch {
	case p.gone:
		return "gone"
	case !p.limitKnown:
		return "?"
	case p.ceiling() == rule.Unlimited:
		return "none"
	}
	return u.pages(p.limit)
}

// limitOrNone is the limit where it is known and there is one, else 0.
func (p *processRow) limitOrNone() int64 {
	if !p.limitKnown || p.ceiling() == rule.Unlimited {
		return 0
	}
	return p.limit
}

// used is pinned_vm of the limit; negative where there is none.
func (p *processRow) used() float64 {
	if p.gone || !p.limitKnown || p.ceiling() == rule.Unlimited {
		return -1
	}
	return float64(p.pinned) / float64(max(1, p.limit))
}

func fitsColumn[T any](value func(*T) int64) column[T] {
	c := number("FITS", 6, 4, helpFits, value)
	c.text = func(t *T, _ units) string {
		switch n := value(t); {
		case n >= 0:
			return strconv.FormatInt(n, 10)
		case n == ledger.FitsUnknown:
			return "?"
		}
		return "any"
	}
	return c
}

func rateColumn[T any](value func(*T) float64) column[T] {
	return column[T]{
		heading: heading{name: "RATE/s", width: 6, rank: 10, help: helpRate},
		text:    func(t *T, _ units) string { return perSecond(value(t)) },
		compare: func(a, b *T) int { return cmp.Compare(value(a), value(b)) },
	}
}

// verdictText is the last broken rule, or how often the rules refused.
func verdictText(broken *row.Row, refusals, events uint64) string {
	switch {
	case broken != nil && broken.Uncertain:
		return broken.Verdict.String() + "?"
	case broken != nil:
		return "✗ " + broken.Verdict.String()
	case refusals > 0:
		return "refused"
	case events > 0:
		return "ok"
	}
	return ""
}

func toneOf(broken *row.Row, refusals uint64, gone bool) tone {
	switch {
	case broken != nil && !broken.Uncertain:
		return toneBroken
	case gone:
		return toneQuiet
	case broken != nil || refusals > 0:
		return toneRefused
	}
	return toneNormal
}

func cgroupText(path string, id uint64, container string) string {
	switch {
	case container != "":
		return format.Printable(container)
	case path != "":
		return format.Printable(path)
	case id != 0:
		return fmt.Sprintf("cgroup id %d", id)
	}
	return ""
}

// userRow is one row of the users.
type userRow struct {
	*user
	name      string
	locked    int64
	known     bool
	allowance int64
	limits    bool // the allowance is known
	processes int64
	buffers   int64
	pinned    int64
	fits      int64
}

func userView() *view[userRow] {
	return &view[userRow]{
		title: "users",
		sort:  "LOCKED",
		columns: []column[userRow]{
			identity("UID", 7, 1, "", func(u *userRow) uint32 { return u.uid }),
			word("NAME", 10, 1, 6, "", func(u *userRow) string { return format.Printable(u.name) }),
			{heading: heading{name: "LOCKED", width: 10, rank: 2, help: "the counter that perf buffers are charged to; with ≥ what is known of it"},
				text: func(u *userRow, units units) string {
					if u.known && u.locked == 0 {
						return nothing
					}
					return atLeast(units.pages(u.locked), u.known)
				},
				compare: func(a, b *userRow) int { return cmp.Compare(a.locked, b.locked) }},
			{heading: heading{name: "ALLOWANCE", width: 10, rank: 4, help: "perf_event_mlock_kb in pages × online CPUs; none: it is negative, and nothing limits"},
				text: func(u *userRow, units units) string {
					switch {
					case !u.limits:
						return "?"
					case u.allowance < 0:
						return "none"
					}
					return units.pages(u.allowance)
				},
				compare: func(a, b *userRow) int { return cmp.Compare(a.allowance, b.allowance) }},
			bar("USED", 3, "LOCKED of ALLOWANCE", func(u *userRow) float64 {
				if u.allowance < 0 || !u.limits {
					return -1
				}
				return float64(u.locked) / float64(max(1, u.allowance))
			}),
			amount("LOCKED_VM", 10, 11, "user_struct.locked_vm, by the snapshot", func(u *userRow) int64 {
				if u.otherKnown {
					return u.lockedVM
				}
				return -1
			}),
			number("PROCS", 5, 7, "its processes that have to do with locked memory", func(u *userRow) int64 { return u.processes }),
			number("BUFS", 5, 5, helpBuffers, func(u *userRow) int64 { return u.buffers }),
			amount("PINNED_VM", 10, 8, helpPinnedMany, func(u *userRow) int64 { return u.pinned }),
			number("OVERCHARGED", 11, 9, helpOver, func(u *userRow) int64 { return u.overcharged }),
			fitsColumn(func(u *userRow) int64 { return u.fits }),
			number("REFUSED", 7, 5, helpRefused, func(u *userRow) int64 { return int64(u.refusals) }),
			rateColumn(func(u *userRow) float64 { return u.rate.perSecond }),
			word("VERDICT", 15, 0, 3, helpVerdict, func(u *userRow) string { return verdictText(u.broken, u.refusals, u.events) }),
			trendColumn("LOCKED", func(u *userRow) trend.Series { return u.trend }),
		},
		rows: userRows,
		id:   func(u *userRow) string { return strconv.FormatUint(uint64(u.uid), 10) },
		tone: func(u *userRow) tone { return toneOf(u.broken, u.refusals, false) },
	}
}

// atLeast marks an amount that is not the whole of it, as far as is known.
func atLeast(amount string, known bool) string {
	if known {
		return amount
	}
	return "≥" + amount
}

func userRows(a *accounts, all bool) []userRow {
	sums := map[uint32]userRow{}
	for _, p := range a.processes {
		s := sums[p.uid]
		s.locked += p.share
		s.buffers += p.buffers
		s.pinned += p.pinned
		if !p.idle() {
			s.processes++
		}
		sums[p.uid] = s
	}
	for uid := range a.users {
		//lint:ignore SA4018 a user without processes has a row too
		sums[uid] = sums[uid]
	}
	var rows []userRow
	for uid, s := range sums {
		s.user, s.name, s.allowance = a.users[uid], a.names[uid], a.limits.Allowance
		s.limits = a.limits.known()
		if s.user == nil {
			s.user = &user{uid: uid}
		}
		s.locked, s.known = a.lockedOf(uid, s.locked)
		size := s.size
		if size == 0 {
			size = a.usualSize()
		}
		if s.fits = ledger.FitsUnknown; s.limits {
			s.fits = a.limits.Room(rule.Caller{UserLocked: s.locked}, size)
		}
		if all || s.locked != 0 || s.processes != 0 || s.events != 0 {
			rows = append(rows, s)
		}
	}
	slices.SortFunc(rows, func(x, y userRow) int { return cmp.Compare(x.uid, y.uid) })
	return rows
}

// cgroupRow is one row of the cgroups.
type cgroupRow struct {
	name, container        string
	path                   string // "": not known
	label                  string // in a tree
	branch                 bool
	processes, buffers     int64
	pinned, share, over    int64
	refusals, events       uint64
	perSecond              float64
	broken                 *row.Row
	members                []*process
	allowance, bufferPages int64
	trend                  trend.Series
}

func cgroupView() *view[cgroupRow] {
	return &view[cgroupRow]{
		title: "cgroups",
		sort:  "PINNED_VM",
		columns: []column[cgroupRow]{
			word("CGROUP", 16, 3, 1, "", func(g *cgroupRow) string { return cmp.Or(g.label, g.name) }),
			word("CONTAINER", 12, 1, 8, "where it is known", func(g *cgroupRow) string { return format.Printable(g.container) }),
			number("PROCS", 5, 6, "its processes that have to do with locked memory", func(g *cgroupRow) int64 { return g.processes }),
			amount("PINNED_VM", 10, 2, helpPinnedMany, func(g *cgroupRow) int64 { return g.pinned }),
			amount("USER_SHARE", 10, 3, "pages of users' allowances that its buffers take", func(g *cgroupRow) int64 { return g.share }),
			number("BUFS", 5, 4, helpBuffers, func(g *cgroupRow) int64 { return g.buffers }),
			number("OVERCHARGED", 11, 7, helpOver, func(g *cgroupRow) int64 { return g.over }),
			number("REFUSED", 7, 5, helpRefused, func(g *cgroupRow) int64 { return int64(g.refusals) }),
			rateColumn(func(g *cgroupRow) float64 { return g.perSecond }),
			word("VERDICT", 15, 0, 3, helpVerdict, func(g *cgroupRow) string { return verdictText(g.broken, g.refusals, g.events) }),
			trendColumn("PINNED_VM", func(g *cgroupRow) trend.Series { return g.trend }),
		},
		rows: cgroupRows,
		id:   func(g *cgroupRow) string { return g.name },
		tone: func(g *cgroupRow) tone { return toneOf(g.broken, g.refusals, false) },
		tree: cgroupTree(),
	}
}

func cgroupRows(a *accounts, all bool) []cgroupRow {
	groups := map[string]*cgroupRow{}
	for _, p := range a.processes {
		if !all && p.idle() {
			continue
		}
		name := groupName(p)
		g := groups[name]
		if g == nil {
			g = &cgroupRow{name: name, path: p.cgroup, container: a.containers[p.cgroup], allowance: a.limits.Allowance, trend: a.groups[p.groupKey()].trend}
			groups[name] = g
		}
		g.add(p)
	}
	rows := make([]cgroupRow, 0, len(groups))
	for _, g := range groups {
		rows = append(rows, *g)
	}
	slices.SortFunc(rows, func(x, y cgroupRow) int { return strings.Compare(x.name, y.name) })
	return rows
}

func (g *cgroupRow) add(p *process) {
	g.sum(&cgroupRow{members: []*process{p}, processes: 1, buffers: p.buffers, bufferPages: p.bufferPages, pinned: p.pinned, share: p.share,
		over: p.overcharged, refusals: p.refusals, events: p.events, perSecond: p.rate.perSecond, broken: p.broken})
}

// Object is a BPF map or program: one row of the BPF objects.
type Object struct {
	ID      uint32
	Kind    string // map or prog
	Type    string // hash, kprobe, ...
	Name    string
	Memlock int64    // bytes, by the object's own account
	Charged int64    // bytes charged to a user or a memcg; negative: not known
	Holders []string // who has it open, as comm(pid)
}

func (o *Object) id() string { return fmt.Sprintf("%s %d", o.Kind, o.ID) }

// objectRow is one row of the BPF objects.
type objectRow struct {
	*Object
	trend trend.Series
}

func objectRows(a *accounts, _ bool) []objectRow {
	rows := make([]objectRow, len(a.objects))
	for i := range a.objects {
		o := &a.objects[i]
		rows[i] = objectRow{o, a.charged[o.id()]}
	}
	return rows
}

func objectView() *view[objectRow] {
	memory := func(name string, rank int, help string, value func(*objectRow) int64) column[objectRow] {
		return column[objectRow]{
			heading: heading{name: name, width: 10, rank: rank, help: help},
			text: func(o *objectRow, _ units) string {
				switch n := value(o); {
				case n == 0:
					return nothing
				case n > 0:
					return format.Bytes(n)
				}
				return "?"
			},
			compare: func(a, b *objectRow) int { return cmp.Compare(value(a), value(b)) },
		}
	}
	return &view[objectRow]{
		title: "bpf",
		sort:  "CHARGED",
		columns: []column[objectRow]{
			identity("ID", 7, 1, "", func(o *objectRow) uint32 { return o.ID }),
			word("KIND", 4, 0, 2, "", func(o *objectRow) string { return o.Kind }),
			word("TYPE", 14, 0, 4, "", func(o *objectRow) string { return format.Printable(o.Type) }),
			word("NAME", 15, 1, 2, "", func(o *objectRow) string { return format.Printable(o.Name) }),
			memory("CHARGED", 3, "bytes charged to a user (before 5.11) or a memcg", func(o *objectRow) int64 { return o.Charged }),
			memory("MEMLOCK", 5, "bytes by its fdinfo; an estimate since 5.11", func(o *objectRow) int64 { return o.Memlock }),
			trendColumn("CHARGED", func(o *objectRow) trend.Series { return o.trend }),
			word("HOLDERS", 14, 3, 3, "who has it open", func(o *objectRow) string { return format.Printable(strings.Join(o.Holders, " ")) }),
		},
		rows: objectRows,
		id:   func(o *objectRow) string { return o.id() },
		tone: func(o *objectRow) tone { return toneNormal },
	}
}

// eventRow is one row of the live events.
type eventRow struct{ *row.Row }

func (e *eventRow) tone() tone {
	switch {
	case e.Verdict != ledger.OK && !e.Uncertain:
		return toneBroken
	case e.Verdict != ledger.OK || e.Kind == ledger.Refusal:
		return toneRefused
	case e.Kind == ledger.Mapping || e.Kind == ledger.Unmapping:
		return toneQuiet
	}
	return toneNormal
}

// eventView has the columns of pinwatch trace, and what there is to say.
func eventView() *view[eventRow] {
	v := &view[eventRow]{
		title: "events",
		sort:  "TIME",
		rows: func(a *accounts, _ bool) []eventRow {
			rows := make([]eventRow, len(a.rows))
			for i, r := range a.rows {
				rows[i] = eventRow{r}
			}
			return rows
		},
		id:   func(e *eventRow) string { return strconv.FormatUint(e.Number, 10) },
		tone: (*eventRow).tone,
	}
	for _, c := range row.Columns() {
		if c.Least > 0 {
			v.columns = append(v.columns, eventColumn(c))
		}
	}
	return v
}

func eventColumn(c row.Column) column[eventRow] {
	shown := column[eventRow]{
		heading: heading{name: c.Header, width: c.Least, left: c.Left, rank: c.Rank, help: c.Help},
		text:    func(e *eventRow, _ units) string { return c.Cell(e.Row) },
		compare: func(a, b *eventRow) int { return compareCells(c.Cell(a.Row), c.Cell(b.Row)) },
		word:    c.Word,
	}
	switch c.Name {
	case "comm":
		shown.flex = 1 // those that are longer than most
	case "time_ns":
		shown.compare = func(a, b *eventRow) int { return cmp.Compare(a.Number, b.Number) }
	case "note": // the longest text of all is made where it is looked at
		shown.flex = 4
		shown.text = func(e *eventRow, _ units) string { return output.Explain(e.Row) }
		shown.compare = func(a, b *eventRow) int { return 0 }
	}
	return shown
}

// compareCells compares numbers as numbers, and everything else as text.
func compareCells(a, b string) int {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil {
		return cmp.Compare(x, y)
	}
	return strings.Compare(a, b)
}

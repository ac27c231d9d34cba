package top

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/top/trend"
)

// units say how amounts of memory are written.
type units struct {
	pageSize int64 // bytes
	bytes    bool  // in bytes instead of pages
}

func (u units) pages(n int64) string {
	if u.bytes && u.pageSize > 0 {
		return format.Bytes(n * u.pageSize)
	}
	return strconv.FormatInt(n, 10)
}

// column is one value of a T: how it is written and how it sorts.
type column[T any] struct {
	heading
	text    func(t *T, u units) string
	compare func(a, b *T) int
	// share is what a bar shows, of 1; negative: no bar. nil: text.
	share func(t *T) float64
	// trend is what a sparkline shows. nil: text.
	trend func(t *T) trend.Series
	// word says that the filter looks at it.
	word bool
}

// heading is what does not depend on the rows.
type heading struct {
	name  string
	width int  // the least that it needs
	flex  int  // how much of what is left over it takes; 0: none
	left  bool // aligned left
	words bool // sorted from a to z at first; amounts begin with the largest
	rank  int  // where room is short, the highest ranks go first
	drawn bool // a picture: nothing for plain text
	help  string
}

// nothing is written for an amount of none, in every column that counts something: the others
// stand out. A limit of 0 is 0, and so is a number of buffers that still fit.
const nothing = "·"

// amount is a column of pages. A negative number is one that is not known.
func amount[T any](name string, width, rank int, help string, value func(*T) int64) column[T] {
	return column[T]{
		heading: heading{name: name, width: width, rank: rank, help: help},
		text: func(t *T, u units) string {
			switch n := value(t); {
			case n == 0:
				return nothing
			case n > 0:
				return u.pages(n)
			}
			return "?"
		},
		compare: func(a, b *T) int { return cmp.Compare(value(a), value(b)) },
	}
}

// number is a column of something that is counted.
func number[T any](name string, width, rank int, help string, value func(*T) int64) column[T] {
	return column[T]{
		heading: heading{name: name, width: width, rank: rank, help: help},
		text: func(t *T, _ units) string {
			if n := value(t); n != 0 {
				return strconv.FormatInt(n, 10)
			}
			return nothing
		},
		compare: func(a, b *T) int { return cmp.Compare(value(a), value(b)) },
	}
}

// identity is a column of a number that names something.
func identity[T any](name string, width, rank int, help string, value func(*T) uint32) column[T] {
	return column[T]{
		heading: heading{name: name, width: width, rank: rank, help: help},
		text:    func(t *T, _ units) string { return strconv.FormatUint(uint64(value(t)), 10) },
		compare: func(a, b *T) int { return cmp.Compare(value(a), value(b)) },
		word:    true,
	}
}

// word is a column of text.
func word[T any](name string, width, flex, rank int, help string, value func(*T) string) column[T] {
	return column[T]{
		heading: heading{name: name, width: width, flex: flex, left: true, words: true, rank: rank, help: help},
		text:    func(t *T, _ units) string { return value(t) },
		compare: func(a, b *T) int { return strings.Compare(value(a), value(b)) },
		word:    true,
	}
}

// bar is a column that shows how much of a limit is used.
func bar[T any](name string, rank int, help string, share func(*T) float64) column[T] {
	return column[T]{
		heading: heading{name: name, width: 10, flex: 1, left: true, rank: rank, help: help},
		text: func(t *T, _ units) string {
			if s := share(t); s >= 0 {
				return percent(s)
			}
			return ""
		},
		compare: func(a, b *T) int { return cmp.Compare(share(a), share(b)) },
		share:   share,
	}
}

// trendColumn is a column of sparklines, of what another column shows. It sorts by how much
// that has grown.
func trendColumn[T any](of string, value func(*T) trend.Series) column[T] {
	growth := func(t *T) int64 { s := value(t); return s.Growth() }
	return column[T]{
		heading: heading{name: "TREND", width: 8, flex: 1, left: true, rank: 13, drawn: true, help: of + " over the last five minutes, or of a recording; sorted by its growth"},
		compare: func(a, b *T) int { return cmp.Compare(growth(a), growth(b)) },
		trend:   value,
	}
}

func percent(share float64) string {
	return strconv.FormatInt(int64(math.Round(100*share)), 10) + "%"
}

// perSecond writes a rate with no more digits than tell something.
func perSecond(r float64) string {
	switch {
	case r == 0:
		return nothing
	case r < 10:
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return format.Fit(strconv.FormatInt(int64(math.Round(r)), 10), 6)
}

// view is one of the tables: its columns and its rows.
type view[T any] struct {
	title   string
	columns []column[T]
	sort    string // column by which it is sorted at first
	rows    func(a *accounts, all bool) []T
	id      func(*T) string
	tone    func(*T) tone
	tree    *tree[T] // nil: it has none
}

// list is a view's rows at one moment: sorted and filtered, not drawn.
type list interface {
	len() int
	id(row int) string
	headings() []heading
	// text is a cell, and share what its bar shows; negative: no bar.
	text(row, column int, u units) (text string, share float64)
	tone(row int) tone
	branch(row int) bool // in a tree: others hang on it
	// trend is what a sparkline shows in a cell; nil: no sparkline.
	trend(row, column int) *trend.Series
}

// table is what the model knows of a view.
type table interface {
	name() string
	headings() []heading
	sortedBy() int // the column by which it is sorted at first
	list(a *accounts, q query) list
}

// query says which rows are wanted, in which order.
type query struct {
	column     int
	descending bool
	filter     string // part of one of the words; letter case does not matter
	all        bool   // idle ones too
	tree       bool
	folded     map[string]bool // branches of the tree, by id
}

type listOf[T any] struct {
	view *view[T]
	rows []*T
}

func (v *view[T]) name() string { return v.title }

func (v *view[T]) headings() []heading {
	headings := make([]heading, len(v.columns))
	for i := range v.columns {
		headings[i] = v.columns[i].heading
	}
	return headings
}

func (v *view[T]) sortedBy() int {
	return max(0, slices.IndexFunc(v.columns, func(c column[T]) bool { return c.name == v.sort }))
}

// list makes the rows: this is the one place that looks at all of them.
func (v *view[T]) list(a *accounts, q query) list {
	all, hung := v.rows(a, q.all), q.tree && v.tree != nil
	if hung {
		all = v.tree.grown(a, all)
	}
	rows := make([]*T, 0, len(all)) // pointers: they are cheaper to sort
	needle := strings.ToLower(q.filter)
	for i := range all {
		if needle == "" || v.matches(&all[i], needle) {
			rows = append(rows, &all[i])
		}
	}
	if hung && needle != "" {
		rows = v.withBranches(rows, all)
	}
	compare := v.columns[q.column].compare
	slices.SortStableFunc(rows, func(x, y *T) int {
		if q.descending {
			return compare(y, x)
		}
		return compare(x, y)
	})
	if hung {
		rows = v.hang(rows, q.folded)
	}
	return &listOf[T]{v, rows}
}

func (v *view[T]) matches(t *T, needle string) bool {
	for i := range v.columns {
		if c := &v.columns[i]; c.word && strings.Contains(strings.ToLower(c.text(t, units{})), needle) {
			return true
		}
	}
	return false
}

func (l *listOf[T]) len() int            { return len(l.rows) }
func (l *listOf[T]) id(row int) string   { return l.view.id(l.rows[row]) }
func (l *listOf[T]) headings() []heading { return l.view.headings() }
func (l *listOf[T]) tone(row int) tone   { return l.view.tone(l.rows[row]) }

func (l *listOf[T]) text(row, column int, u units) (string, float64) {
	c, t := &l.view.columns[column], l.rows[row]
	share := -1.0
	if c.share != nil {
		share = c.share(t)
	}
	return c.text(t, u), share
}

func (l *listOf[T]) branch(row int) bool {
	return l.view.tree != nil && l.view.tree.branch(l.rows[row])
}

func (l *listOf[T]) trend(row, column int) *trend.Series {
	if of := l.view.columns[column].trend; of != nil {
		s := of(l.rows[row])
		return &s
	}
	return nil
}

// place is where a column stands on the screen.
type place struct {
	column, width int
}

// arrange chooses the columns that fit into a width, and gives them what room
// is left. There is one blank between two of them. The column by which the rows
// are sorted is one of them if it fits at all.
func arrange(headings []heading, width, sorted int) []place {
	order := make([]int, len(headings))
	for i := range order {
		order[i] = i
	}
	rank := func(i int) int {
		if i == sorted {
			return 0
		}
		return headings[i].rank
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rank(a), rank(b)) })
	var places []place
	left := width + 1
	for _, i := range order {
		if need := headings[i].width + 1; need <= left {
			left -= need
			places = append(places, place{i, headings[i].width})
		} else if len(places) > 0 {
			break // no lesser one in its stead: columns come and go in one order
		}
	}
	if len(places) == 0 && len(order) > 0 && width > 0 {
		return []place{{order[0], width}}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.column, b.column) })
	widen(places, headings, left)
	return places
}

// widen gives what is left over to the flexible columns, in proportion.
func widen(places []place, headings []heading, left int) {
	var sum int
	for _, p := range places {
		sum += headings[p.column].flex
	}
	for i := range places {
		flex := headings[places[i].column].flex
		if flex == 0 {
			continue
		}
		more := left * flex / sum
		places[i].width += more
		left -= more
		sum -= flex
	}
}

// pad makes a text exactly as wide as its column: shortened or filled up.
// Numbers keep their size, with fewer digits.
func pad(s string, width int, left bool) string {
	if !left {
		s = format.Fit(s, width)
	}
	s = clip(s, width)
	fill := strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
	if left {
		return s + fill
	}
	return fill + s
}

// clip shortens a text to a width on the screen.
func clip(s string, width int) string {
	if width <= 0 {
		return ""
	}
	if len(s) <= width {
		return s // no rune is wider than its bytes
	}
	return ansi.Truncate(s, width, "…")
}

// Package top is the terminal view: who holds locked memory, and who is
// refused.
//
// Update and View are functions of the model, a message and the window's size.
// They do no I/O and take no locks: whoever runs the model (package terminal)
// brings it news as messages, and does what the returned Action says.
package top

import (
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// The messages that bring news, besides keys and window sizes.
type (
	// Entries are ledger entries, in their order, and the counts after them.
	Entries struct {
		Rows   []*row.Row
		Counts ledger.Summary
		Lost   uint64
	}
	// Snapshot is what exists at a moment.
	Snapshot struct {
		*snapshot.Snapshot
		Names      map[uint32]string // of users, by uid
		Containers map[string]string // by cgroup path
	}
	// Objects are all BPF objects.
	Objects []Object
	// Tick ends an interval: what came since is shown.
	Tick struct {
		NowNS uint64 // Unix time in nanoseconds; of a recording, its own
		Usage Usage
	}
	// Trouble is what does not work in one topic, and why. It stays on the screen
	// until the next Trouble of the topic. None: all is well again.
	Trouble struct {
		Topic string
		Texts []string
	}
	// Notice is something to say once.
	Notice string
	// Gap says what is missing in a recording: of what holds before it nothing is known any more.
	Gap string
	// Ended says that a recording is at its end.
	Ended struct{}
)

// Usage is what pinwatch itself takes.
type Usage struct {
	CPU float64 // of one CPU, 1 is all of it; negative: not known yet
	RSS int64   // bytes
}

// Action is what an Update wants done. The zero Action is nothing.
type Action struct {
	Quit, Suspend bool
	Step          bool          // replay: enter one more event
	Pause, Resume bool          // replay
	Interval      time.Duration // new; 0: as before
	Speed         float64       // replay: new; 0: as before
	Save          string        // settings to keep
	Seek          Seek          // replay
}

// Options say what a model starts with.
type Options struct {
	Title    string // the kernel, or the recording
	Attach   string // how it is attached, and how events come; "": not at all
	Replay   bool
	Paused   bool
	Speed    float64 // replay: 1 is as recorded
	Interval time.Duration
	View     string // one of ViewNames; "": the first
	Sort     string // column; "": the view's own
	Filter   string
	All      bool // idle processes too
	Bytes    bool // instead of pages
	Tree     bool // of cgroups
	ASCII    bool // what the screen is drawn with
	Mouse    bool // the terminal is to report it
}

// Model is the state of the screen. It is a value: Update returns a new one and
// leaves the old one as it was.
type Model struct {
	opts          Options
	width, height int
	batch         bool // plain text, without pictures
	tables        [viewCount]table
	places        [viewCount]placeIn
	styles        styles

	news  *accounts // all that came
	shown *accounts // what is on the screen: older while paused
	list  list      // the rows of the view, made from shown

	view     int
	usage    Usage
	troubles []troubleLine
	ended    bool
	seeking  bool            // nothing is shown until it is there
	asking   bool            // for a place in the recording
	target   string          // the place, as far as it is typed
	notice   string          // until the next key
	follow   *followed       // nil: nothing; never changed
	folded   map[string]bool // branches of the tree; never changed
	typing   bool            // a filter
	before   string          // the filter before it was typed

	page       page
	subject    string   // id of the row that a detail page is about
	lines      []string // of a detail page
	lineOffset int
}

// page is what fills the screen.
type page uint8

const (
	pageTable page = iota
	pageDetail
	pageHelp
)

// placeIn is where the user is in a view.
type placeIn struct {
	sort       int
	descending bool
	// selected is the id of the selected row once the user has chosen one, and
	// row where that was last. Until then the first row is selected.
	selected    string
	row, offset int
}

// New returns a model that knows nothing yet. It is an error to name a view or a
// column that does not exist; both are told what there is.
func New(opts Options) (Model, error) {
	m := Model{opts: opts, tables: views(), styles: newStyles()}
	m.news = newAccounts(opts.Replay)
	if opts.View != "" {
		v, err := indexOf(opts.View, ViewNames(), "view")
		if err != nil {
			return m, err
		}
		m.view = v
	}
	for v, t := range m.tables {
		m.places[v] = placeIn{sort: t.sortedBy(), descending: true}
	}
	if opts.Sort != "" {
		var names []string
		for _, h := range m.tables[m.view].headings() {
			names = append(names, h.name)
		}
		column, err := indexOf(opts.Sort, names, "column")
		if err != nil {
			return m, err
		}
		m.places[m.view].sort, m.places[m.view].descending = column, !m.tables[m.view].headings()[column].words
	}
	m.shown = m.news
	m.refresh()
	return m, nil
}

// Update is the model after a message.
func (m Model) Update(msg tea.Msg) (Model, Action) {
	var action Action
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(0, msg.Width), max(0, msg.Height)
		m.layout()
	case tea.KeyPressMsg:
		m.notice = ""
		action = m.key(msg)
	case tea.MouseClickMsg:
		m.click(msg)
	case tea.MouseWheelMsg:
		m.wheel(msg)
	case tea.PasteMsg:
		if m.typing {
			m.opts.Filter += msg.Content
			m.refresh()
		}
	case Entries:
		m.news = m.news.withEntries(msg)
		if m.opts.Replay && !m.seeking {
			m.show()
		}
	case Snapshot:
		m.news = m.news.withSnapshot(msg)
	case Objects:
		m.news = m.news.withObjects(msg)
	case Tick:
		m.usage = msg.Usage
		m.news = m.news.at(msg.NowNS)
		if (!m.opts.Paused || m.opts.Replay) && !m.seeking {
			m.show()
		}
	case Trouble:
		m.trouble(msg)
		m.layout()
	case Seeking:
		if m.seeking, m.ended = true, false; msg.Back {
			m.news = newAccounts(m.opts.Replay)
			m.trouble(Trouble{Topic: gapTopic})
		}
	case Sought:
		m.seeking, m.notice = false, format.Printable(msg.Failed)
		m.show()
	case Gap:
		m.news = m.news.afterGap()
		m.trouble(Trouble{gapTopic, []string{string(msg)}})
		m.layout()
	case Notice:
		m.notice = format.Printable(string(msg))
	case Ended:
		m.ended = true
	}
	return m, action
}

// gapTopic is what stays on the screen of a gap.
const gapTopic = "recording"

// trouble takes the place of the topic's earlier troubles. Errors can have many
// lines, and hold anything.
func (m *Model) trouble(t Trouble) {
	rest := slices.DeleteFunc(slices.Clone(m.troubles), func(line troubleLine) bool { return line.topic == t.Topic })
	for _, text := range t.Texts {
		rest = append(rest, troubleLine{t.Topic, format.Printable(strings.Join(strings.Fields(text), " "))})
	}
	m.troubles = rest
}

// troubleLine is one thing that does not work.
type troubleLine struct{ topic, text string }

func (t troubleLine) String() string { return t.topic + ": " + t.text }

// show brings the news to the screen.
func (m *Model) show() {
	m.shown = m.news
	m.refresh()
}

// refresh makes the rows anew: the one thing that takes time with many
// processes. Whoever is selected stays selected.
func (m *Model) refresh() {
	p := &m.places[m.view]
	m.list = m.tables[m.view].list(m.shown, query{column: p.sort, descending: p.descending, filter: m.opts.Filter, all: m.opts.All, tree: m.opts.Tree, folded: m.folded})
	if m.follow != nil {
		m.selectFollowed()
	}
	p.find(m.list)
	m.layout()
}

// find looks up where the selected row is now. One that is gone leaves its place
// to its successor.
func (p *placeIn) find(l list) {
	if p.selected == "" {
		p.row = 0
	} else {
		for row := range l.len() {
			if l.id(row) == p.selected {
				p.row = row
				break
			}
		}
	}
	p.row = max(0, min(p.row, l.len()-1))
}

// layout keeps what is selected on the screen, and makes a detail page fit.
func (m *Model) layout() {
	p := &m.places[m.view]
	room := max(1, m.room())
	p.offset = min(max(p.offset, p.row-room+1), p.row)
	p.offset = max(0, min(p.offset, m.list.len()-room))
	if m.page == pageDetail {
		m.lines = m.detail()
	}
	if m.page == pageHelp {
		m.lines = m.help()
	}
	m.lineOffset = max(0, min(m.lineOffset, len(m.lines)-max(1, m.height-2)))
}

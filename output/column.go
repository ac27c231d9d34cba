// Package output turns ledger entries into rows, and rows into tables and JSON
// lines. One list of columns serves them all, and reads recordings back too.
package output

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Version is the version of the JSON lines. It changes when a field changes its
// name, type or meaning; new fields do not change it.
const Version = 1

// Row is one line of output: a ledger entry and the counters at its time.
type Row struct {
	ledger.Entry

	Summary   bool // the last row: only the counters mean something
	Subsystem string
	Note      string // what there is to say about the row, in words
}

// Column is one value of a row: how it is written, and how it is read back.
type Column struct {
	// Name is the JSON field.
	Name string
	// Header and Width are of the table; Width 0 keeps it out of there.
	Header string
	Width  int
	Left   bool // aligned left

	object bool // of rows about BPF objects; one text in all others
	append func(dst []byte, r *Row) []byte
	// parse sets the row's value; nil for what is derived.
	parse func(r *Row, text []byte) error
	// text is the table's cell; nil: as in JSON.
	text func(r *Row) string
}

// Cell is the column's text in a table, never wider than its width.
func (c *Column) Cell(r *Row) string { return string(c.appendCell(nil, r)) }

func (c *Column) appendCell(dst []byte, r *Row) []byte {
	start := len(dst)
	if c.text != nil {
		dst = append(dst, c.text(r)...)
	} else {
		dst = c.append(dst, r)
	}
	if len(dst)-start > c.Width {
		dst = append(dst[:start], Fit(string(dst[start:]), c.Width)...)
	}
	return dst
}

// JSON is the column's value as JSON lines have it.
func (c *Column) JSON(r *Row) string { return string(c.append(nil, r)) }

// Fit shortens a text that is too wide for its column: a number to fewer
// digits, never by cutting some off.
func Fit(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		for precision := width; precision >= 0; precision-- {
			if short := strconv.FormatFloat(float64(n), 'e', precision, 64); len(short) <= width {
				return short
			}
		}
	}
	return string([]rune(s)[:width-1]) + "…"
}

type integers interface {
	~int | ~int32 | ~int64 | ~uint8 | ~uint32 | ~uint64
}

func integer[T integers](name string, field func(*Row) *T) Column {
	return Column{
		Name: name,
		append: func(dst []byte, r *Row) []byte {
			value := *field(r)
			switch {
			case value < 0:
				return strconv.AppendInt(dst, int64(value), 10)
			case value < 10: // most are
				return append(dst, '0'+byte(value))
			}
			return strconv.AppendUint(dst, uint64(value), 10)
		},
		parse: func(r *Row, text []byte) error { return json.Unmarshal(text, field(r)) },
	}
}

func boolean(name string, field func(*Row) *bool) Column {
	return Column{
		Name:   name,
		append: func(dst []byte, r *Row) []byte { return strconv.AppendBool(dst, *field(r)) },
		parse:  func(r *Row, text []byte) error { return json.Unmarshal(text, field(r)) },
	}
}

func text(name string, value func(*Row) string) Column {
	return Column{
		Name:   name,
		append: func(dst []byte, r *Row) []byte { return appendString(dst, value(r)) },
		text:   value,
	}
}

// lasting is for long texts that are the same in row after row: the last one is kept
// as JSON has it.
func (c Column) lasting() Column {
	var last string
	var quoted []byte
	value := c.text
	c.append = func(dst []byte, r *Row) []byte {
		if s := value(r); quoted == nil || s != last {
			last, quoted = s, appendString(quoted[:0], s)
		}
		return append(dst, quoted...)
	}
	return c
}

func derived(name string, value func(*Row) int64) Column {
	return Column{
		Name:   name,
		append: func(dst []byte, r *Row) []byte { return strconv.AppendInt(dst, value(r), 10) },
	}
}

func (c Column) in(header string, width int) Column {
	c.Header, c.Width = header, width
	return c
}

func (c Column) left() Column {
	c.Left = true
	return c
}

func (c Column) as(text func(*Row) string) Column {
	c.text = text
	return c
}

func (c Column) read(parse func(*Row, []byte) error) Column {
	c.parse = parse
	return c
}

// Columns are all there are, in the order of the JSON fields. They keep what they
// found out, so they are for one goroutine.
func Columns() []Column {
	identify := identities()
	columns := []Column{
		derived("v", func(*Row) int64 { return Version }).read(parseVersion),
		integer("time_ns", func(r *Row) *uint64 { return &r.TimeNS }).in("TIME", 12).left().as(clock),
		text("subsystem", func(r *Row) string { return r.Subsystem }).
			read(parseSubsystem),
		text("kind", kind).read(parseKind).in("KIND", 9).left(),
		integer("event", func(r *Row) *uint64 { return &r.Number }),
		integer("pid", func(r *Row) *uint32 { return &r.Caller.PID }).in("PID", 7),
		integer("tid", func(r *Row) *uint32 { return &r.Caller.TID }),
		text("comm", func(r *Row) string { return r.Caller.Comm }).
			read(func(r *Row, b []byte) error { return json.Unmarshal(b, &r.Caller.Comm) }).
			as(func(r *Row) string { return Printable(r.Caller.Comm) }).in("COMM", 11).left(),
		integer("uid", func(r *Row) *uint32 { return &r.Caller.UID }).in("UID", 5),
		integer("payer_uid", func(r *Row) *uint64 { return &r.User.Owner }).read(parsePayer),
		integer("cgroup_id", func(r *Row) *uint64 { return &r.Caller.CgroupID }),
		text("cgroup", func(r *Row) string { return r.Caller.Cgroup }).
			read(func(r *Row, b []byte) error { return json.Unmarshal(b, &r.Caller.Cgroup) }).lasting(),
		text("container", func(r *Row) string { return identify(r.Caller.Cgroup).ContainerID }).lasting(),
		text("runtime", func(r *Row) string { return identify(r.Caller.Cgroup).Runtime }).lasting(),
		text("pod_uid", func(r *Row) string { return identify(r.Caller.Cgroup).PodUID }).lasting(),
		integer("cpu", func(r *Row) *uint32 { return &r.Caller.CPU }),
		boolean("own", func(r *Row) *bool { return &r.Caller.Self }),
		integer("process", func(r *Row) *uint64 { return &r.ProcessID }).
			read(func(r *Row, b []byte) error { return json.Unmarshal(b, &r.Process.Owner) }),
		integer("buffer", func(r *Row) *uint64 { return &r.BufferID }).
			read(func(r *Row, b []byte) error { return json.Unmarshal(b, &r.Buffer.Key) }).
			as(bufferName).in("ID", 5),
		text("area", func(r *Row) string { return r.Buffer.Area.String() }).read(parseArea),
		derived("pages", pages).in("PAGES", 5),
		derived("user_locked_pages", demand).as(userLocked).in("USER_LOCKED", 11).
			read(func(r *Row, b []byte) error { return json.Unmarshal(b, &r.User.Before) }),
		derived("user_extra_pages", func(r *Row) int64 { return r.Asked() }).
			read(func(r *Row, b []byte) error { return json.Unmarshal(b, &r.Buffer.Pages) }),
		integer("user_lock_limit_pages", func(r *Row) *int64 { return &r.Buffer.Limits.Allowance }),
		integer("extra_pages", func(r *Row) *int64 { return &r.Buffer.Extra }).as(extra).in("EXTRA", 6),
		integer("pinned_vm_pages", func(r *Row) *int64 { return &r.Process.Before }).as(pinnedVM).in("PINNED_VM", 9),
		derived("locked_pages", locked),
		integer("lock_limit_pages", func(r *Row) *int64 { return &r.Caller.LockLimit }).as(lockLimit).in("LOCK_LIMIT", 10),
		integer("charged_user_pages", func(r *Row) *int64 { return &r.ChargedUser }).read(nil),
		integer("charged_pinned_pages", func(r *Row) *int64 { return &r.ChargedPinned }).read(nil),
		integer("expected_user_pages", func(r *Row) *int64 { return &r.ExpectedUser }).read(nil),
		integer("expected_pinned_pages", func(r *Row) *int64 { return &r.ExpectedPinned }).read(nil),
		integer("user_locked_after_pages", func(r *Row) *int64 { return &r.User.After }),
		integer("pinned_vm_after_pages", func(r *Row) *int64 { return &r.Process.After }),
		boolean("cap_ipc_lock", func(r *Row) *bool { return &r.Caller.CapIPCLock }),
		integer("paranoid", func(r *Row) *int32 { return &r.Buffer.Limits.Paranoid }),
		integer("errno", func(r *Row) *int32 { return &r.Errno }),
		text("verdict", func(r *Row) string { return r.Verdict.String() }).as(verdict).in("VERDICT", 19).left(),
		text("certainty", certainty),
		integer("overcharge_pages", func(r *Row) *int64 { return &r.Excess }).read(nil),
		integer("overcharge_total_pages", func(r *Row) *int64 { return &r.ProcessOvercharge }).read(nil),
		integer("overcharge_user_total_pages", func(r *Row) *int64 { return &r.UserOvercharge }).read(nil),
		integer("pinned_vm_overcharged_pages", func(r *Row) *int64 { return &r.PinnedOver }).read(nil),
		integer("user_locked_overcharged_pages", func(r *Row) *int64 { return &r.UserOver }).read(nil),
		integer("fits_calls", func(r *Row) *int64 { return &r.Fits }).read(nil),
		integer("mappings", func(r *Row) *int32 { return &r.Buffer.Mappings.Before }),
		integer("mappings_after", func(r *Row) *int32 { return &r.Buffer.Mappings.After }),
		integer("aux_mappings", func(r *Row) *int32 { return &r.Buffer.AUXMappings.Before }),
		integer("aux_mappings_after", func(r *Row) *int32 { return &r.Buffer.AUXMappings.After }),
		integer("buffer_data_pages", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.Data].Pages }),
		integer("buffer_data_extra_pages", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.Data].Extra }),
		integer("buffer_aux_pages", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.AUX].Pages }),
		integer("buffer_aux_extra_pages", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.AUX].Extra }),
		boolean("overlap_user", func(r *Row) *bool { return &r.User.Shared }),
		boolean("overlap_process", func(r *Row) *bool { return &r.Process.Shared }),
		boolean("overlap_buffer", func(r *Row) *bool { return &r.Buffer.Shared }),
		boolean("locked_vm_apart", func(r *Row) *bool { return &r.SplitCounter }),
		boolean("user_gone", func(r *Row) *bool { return &r.User.Gone }),
		boolean("limits_moved", func(r *Row) *bool { return &r.Buffer.Limits.Moved }),
		integer("page_size_bytes", func(r *Row) *uint32 { return &r.PageSize }),
		integer("online_cpus", func(r *Row) *uint32 { return &r.Buffer.Limits.OnlineCPUs }),
		text("era", func(r *Row) string { return r.Era }),
		integer("refusals", func(r *Row) *uint64 { return &r.Refusals }).read(nil),
		integer("lost", func(r *Row) *uint64 { return &r.Lost }),
		text("note", func(r *Row) string { return r.Note }),
	}
	return append(columns, objectColumns()...)
}

// identitiesKept bounds the memory for what paths say.
const identitiesKept = 1 << 12

// identities reads paths of cgroups, each once.
func identities() func(path string) *cgroup.Identity {
	known := map[string]*cgroup.Identity{}
	var lastPath string
	var last *cgroup.Identity
	return func(path string) *cgroup.Identity {
		if last != nil && path == lastPath {
			return last
		}
		id := known[path]
		if id == nil {
			if len(known) >= identitiesKept {
				clear(known)
			}
			found := cgroup.Identify(path)
			id = &found
			known[path] = id
		}
		lastPath, last = path, id
		return id
	}
}

func parseVersion(_ *Row, b []byte) error {
	if v := string(b); v != strconv.Itoa(Version) {
		return fmt.Errorf("version %s: this pinwatch reads version %d", v, Version)
	}
	return nil
}

func parsePayer(r *Row, b []byte) error {
	var uid uint32
	err := json.Unmarshal(b, &uid)
	r.User.Owner = uint64(uid)
	return err
}

func kind(r *Row) string {
	if r.Summary {
		return "summary"
	}
	return r.Kind.String()
}

// parseSubsystem sets who charged, where that is neither perf nor BPF.
func parseSubsystem(r *Row, b []byte) error {
	err := json.Unmarshal(b, &r.Subsystem)
	r.Charger, _ = ledger.ParseCharger(r.Subsystem)
	return err
}

// parseKind sets what a kind says about the call behind it. What the ledger
// makes of that is its own affair.
func parseKind(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return err
	}
	if name == "summary" {
		r.Summary = true
		return nil
	}
	k, ok := ledger.ParseKind(name)
	if !ok {
		return fmt.Errorf("unknown kind %q", name)
	}
	r.Kind, r.Op, r.Buffer.Existing = k, k.Op(r.Subsystem == subsystemBPF), k == ledger.Mapping
	if r.Charger != ledger.NoCharger {
		r.Op = ledger.Account
	}
	return nil
}

func parseArea(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return err
	}
	area, ok := rule.ParseArea(name)
	if !ok {
		return fmt.Errorf("unknown area %q", name)
	}
	r.Buffer.Area = area
	return nil
}

// pages of the call's mapping, or, when unmapping, of the buffer's area.
func pages(r *Row) int64 {
	if r.Object != nil {
		return r.objectPages()
	}
	if r.Charger != ledger.NoCharger {
		return r.ChargedUser
	}
	if r.Op == ledger.Map {
		return r.Buffer.Pages
	}
	if r.Buffer.Area == rule.AUX {
		return r.Buffer.Recorded[rule.AUX].Pages
	}
	return r.Buffer.Recorded[rule.Data].Pages
}

// demand is the user's counter, with what a new mapping or object asks for.
func demand(r *Row) int64 {
	if r.Op == ledger.Map || r.Op == ledger.Create {
		return r.Demand()
	}
	return r.User.Before
}

// locked is pinned_vm, with what a new mapping asks for.
func locked(r *Row) int64 {
	if r.Op == ledger.Map {
		return r.Locked()
	}
	return r.Process.Before
}

func certainty(r *Row) string {
	if r.Uncertain {
		return "uncertain"
	}
	return "exact"
}

// The table's own forms.

func clock(r *Row) string {
	return time.Unix(0, int64(r.TimeNS)).Format("15:04:05.000")
}

func bufferName(r *Row) string {
	if r.Object != nil {
		return objectID(r.Object)
	}
	if r.BufferID == 0 {
		return "-"
	}
	s := strconv.FormatUint(r.BufferID, 10)
	if r.Buffer.Area == rule.AUX {
		s += "a"
	}
	return s
}

// none stands where a value has no meaning.
const none = "-"

func userLocked(r *Row) string {
	if r.Object != nil && !r.Object.Rlimit {
		return none
	}
	return strconv.FormatInt(demand(r), 10)
}

func pinnedVM(r *Row) string {
	if r.Object != nil {
		return none
	}
	return strconv.FormatInt(r.Process.Before, 10)
}

func extra(r *Row) string {
	if r.Object != nil {
		return none
	}
	if r.Kind == ledger.Refund || r.Charger != ledger.NoCharger {
		return strconv.FormatInt(r.ChargedPinned, 10)
	}
	if r.Kind == ledger.Unmapping || r.Kind == ledger.Mapping {
		return "0"
	}
	return strconv.FormatInt(r.Buffer.Extra, 10)
}

func lockLimit(r *Row) string {
	if r.Object != nil && !r.Object.Rlimit {
		return none
	}
	if r.Caller.LockLimit >= rule.Unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(r.Caller.LockLimit, 10)
}

func verdict(r *Row) string {
	s := r.Verdict.String()
	if r.Kind == ledger.Refusal && r.Verdict == ledger.OK {
		s = errnoName(r.Errno)
	}
	if r.Uncertain {
		s += "?"
	}
	return s
}

// Printable makes a text safe for a terminal: a comm or a path may hold escape
// sequences.
func Printable(s string) string {
	for _, c := range s {
		if c == utf8.RuneError || !strconv.IsPrint(c) {
			quoted := strconv.Quote(s)
			return quoted[1 : len(quoted)-1]
		}
	}
	return s
}

// plain are the bytes that a JSON string holds as they are.
var plain = func() (table [256]bool) {
	for c := ' '; c <= '~'; c++ {
		table[c] = c != '"' && c != '\\'
	}
	return table
}()

// appendString appends a JSON string.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if !plain[s[i]] {
			quoted, _ := json.Marshal(s) // a string cannot fail
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

package page

// data is what the page shows, as JSON: whatever is large is a list for each column, and
// times are microseconds since Begin. Texts that others have chosen are printable.
type data struct {
	Title      string   `json:"title"`
	Begin      string   `json:"begin"` // of the first call, or of what is shown, RFC 3339; "": there is no call
	End        int64    `json:"end"`
	PageSize   uint32   `json:"page_size"` // bytes; 0: not known
	Broken     bool     `json:"broken"`    // the kernel broke a rule
	Verdict    string   `json:"verdict"`
	Story      []string `json:"story"`
	Accounting string   `json:"accounting"`
	Summary    []string `json:"summary"`
	Rules      []broken `json:"rules"`

	Traces []counted `json:"traces"` // that the summary counts, with gaps between them

	Accounts []*account `json:"accounts"`
	Holders  []holder   `json:"holders"`
	Moves    moves      `json:"moves"`
	Notes    []note     `json:"notes"`
}

// counted is what a trace counts, from its first call on, which may be before Begin.
type counted struct {
	Counts string `json:"counts"`
	Since  string `json:"since"` // RFC 3339; "": there is no call
	Length int64  `json:"length"`
}

// broken is a rule that the kernel broke, and how often.
type broken struct {
	Verdict   string `json:"verdict"`
	Count     uint64 `json:"count"`
	Uncertain uint64 `json:"uncertain"`
	Rule      string `json:"rule"`
	Impact    string `json:"impact"`
}

// account is one of the kernel's counters over time, in pages: a point for each call that
// moved it, or that is marked. Limit is the user's allowance, or the process's limit; null
// where it is not known, or none.
type account struct {
	Process bool   `json:"process"`
	Name    string `json:"name"`
	PID     uint32 `json:"pid"`
	UID     uint32 `json:"uid"`
	Split   bool   `json:"split"` // locked_vm of a user whose perf buffers have a counter of their own

	End    int64    `json:"end"` // what comes later is not known
	end    int64    // in Unix time; 0: all that is recorded is known
	Time   []int64  `json:"t"`
	Actual []int64  `json:"actual"`
	Right  []int64  `json:"right"` // what it should be, for the calls in the recording
	Limit  []*int64 `json:"limit"`
	Marks  marks    `json:"marks"`
	// Foreign is by how much the counter moved between two calls: Right does not follow.
	Foreign int64 `json:"foreign"`
	Over    int64 `json:"over"` // how far the counter was from Right, at the most, by broken rules
	// worst is the counter then, and best what it should have been.
	worst, best int64
	Refused     int  `json:"refused"`
	Unclear     bool `json:"unclear"` // calls overlapped: the lines are exact again after them
	Exempt      bool `json:"exempt"`  // has CAP_IPC_LOCK: may exceed the limit
}

// marks are the calls of an account that were refused, or that broke a rule: which point
// of it and which of the notes they are. Of a refused mapping of a process, At is what the
// kernel held against the limit.
type marks struct {
	Point []int   `json:"point"`
	At    []int64 `json:"y"`
	Note  []int   `json:"note"`
}

// holder is a process that locked memory is charged for, and what it is charged for.
type holder struct {
	PID   uint32 `json:"pid"`
	Comm  string `json:"comm"`
	UID   uint32 `json:"uid"` // the user that pays
	Split bool   `json:"split"`
	What  string `json:"what"`
}

// moves are what holders got and gave back: added up to a moment, they are who held what.
type moves struct {
	Time   []int64 `json:"t"`
	Holder []int   `json:"holder"`
	Count  []int64 `json:"count"` // of buffers or objects
	User   []int64 `json:"user"`
	Pinned []int64 `json:"pinned"`
}

// note is about a call that was refused, or that broke a rule.
type note struct {
	Time    int64  `json:"t"`
	Event   uint64 `json:"event"`
	PID     uint32 `json:"pid"`
	Comm    string `json:"comm"`
	UID     uint32 `json:"uid"`
	What    string `json:"what"`
	Pages   int64  `json:"pages"`             // asked for, or given back; 0: not known
	Refused string `json:"refused,omitempty"` // the errno; "": it was not
	Verdict string `json:"verdict,omitempty"` // "": ok
	Text    string `json:"text,omitempty"`
	wrong   bool   // refused although the rules allow the call
	Like    int    `json:"like"` // the note whose text is this one's too; -1: it has its own
}

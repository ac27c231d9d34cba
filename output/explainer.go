package output

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Explainer is the sink that explains every refusal of the traced command, whoever refused.
// The same one again, of the same process, is only counted.
type Explainer struct {
	Out    io.Writer
	AsJSON bool
	// Take takes a snapshot, for the holders, and Facts are those of a process.
	Take  func() (*snapshot.Snapshot, error)
	Facts func(pid uint32) *snapshot.Facts

	// Accounting is how this kernel accounts, for as long as the trace has not seen it.
	Accounting accounting.Finding
	// Unwatched is what this trace could not watch, in words. Of that it claims nothing.
	Unwatched []string

	Refused int // calls
	// Unsure: calls were lost, or some were not watched, so that no refusal seen is none.
	Unsure bool

	succeeded [subsystems]int
	seen      map[refusalKey]bool
}

// The subsystems that successes are counted by.
const (
	ofPerf = iota
	ofBPF
	ofOthers
	subsystems
)

// NewExplainer explains by snapshots of a source, and by what BPF memory is held against.
func NewExplainer(out io.Writer, asJSON bool, from snapshot.Options, source *snapshot.Source, bpf kernel.BPFAccounting) *Explainer {
	return &Explainer{Out: out, AsJSON: asJSON, Accounting: from.Accounting,
		Take: func() (*snapshot.Snapshot, error) { return source.Take(context.Background()) },
		Facts: func(pid uint32) *snapshot.Facts {
			facts := snapshot.Inspect(from, pid)
			facts.BPF = bpf
			return facts
		}}
}

type refusalKey struct {
	pid     uint32
	op      ledger.Op
	charger ledger.Charger
	errno   int32
	pages   int64
	reasons string
}

// Enter explains an entry, if it is a new refusal.
func (x *Explainer) Enter(e *ledger.Entry) error {
	if !e.Caller.Command {
		return nil
	}
	if e.Kind != ledger.Refusal {
		x.count(e)
		return nil
	}
	x.Refused++
	refused := charging.OfRefusal(e)
	this := keyOf(e, refused)
	if x.seen[this] {
		return nil
	}
	if x.seen == nil {
		x.seen = map[refusalKey]bool{}
	}
	x.seen[this] = true
	said, text := explanationOf(e, refused, x.Accounting, x)
	return writeAdvice(x.Out, said, x.AsJSON, text)
}

// buffers completes an explanation by who holds the allowance now.
func (x *Explainer) buffers(of *advice.Explanation, e *ledger.Entry) {
	if s, err := x.Take(); err == nil {
		of.AddHolders(s, x.Facts(e.Caller.PID))
	}
}

// counter is who holds the user's counter now.
func (x *Explainer) counter(e *ledger.Entry) (now *charging.Answer, when string) {
	if s, err := x.Take(); err == nil {
		now = charging.HoldersOf(s, e.Payer())
	}
	return now, "now, shortly after"
}

// holding knows who holds what a call was refused for: the allowance of perf buffers, or the user's
// counter, of which nil is not known.
type holding interface {
	buffers(of *advice.Explanation, e *ledger.Entry)
	counter(e *ledger.Entry) (held *charging.Answer, when string)
}

// explanationOf explains a refusal, as JSON and as text. known is how the kernel accounts, if the
// trace has not seen it.
func explanationOf(e *ledger.Entry, refused *charging.Refused, known accounting.Finding, by holding) (asJSON any, text string) {
	if e.Op != ledger.Map || !e.AboutMemory() {
		return noteOf(e, refused, by)
	}
	explanation := advice.OfEntry(e, known)
	if explanation.Verdict.Errno == "EPERM" {
		explanation.Notes = charging.MappingNotes(e)
	}
	by.buffers(explanation, e)
	return explanation, AdviceText(explanation)
}

func keyOf(e *ledger.Entry, refused *charging.Refused) refusalKey {
	return refusalKey{e.Caller.PID, e.Op, e.Charger, e.Errno, askedOf(e), strings.Join(refused.Names(), ",")}
}

// askedOf is the size of what was asked for, as far as it tells two requests apart.
func askedOf(e *ledger.Entry) int64 {
	switch {
	case e.Object != nil:
		return e.Object.Pages
	case e.Failed != nil && e.Op != ledger.Map:
		return e.Failed.Asked
	}
	return e.Buffer.Pages
}

// count counts what succeeded.
func (x *Explainer) count(e *ledger.Entry) {
	switch {
	case e.Kind != ledger.Charge && e.Kind != ledger.Mapping:
	case e.Object != nil:
		x.succeeded[ofBPF]++
	case e.Charger != ledger.NoCharger:
		x.succeeded[ofOthers]++
	default:
		x.succeeded[ofPerf]++
	}
}

// refusedCall is a refusal that has no explanation of a perf buffer's, as JSON. Amounts are
// pages; what was not seen, or is not what refused, is null.
type refusedCall struct {
	Version  int                   `json:"v"`
	Subject  advice.Subject        `json:"subject"`
	Errno    string                `json:"errno"`
	Outcome  string                `json:"outcome"`
	Reasons  []string              `json:"reasons"`
	Note     string                `json:"note"`
	Asked    *int64                `json:"asked_pages"`
	Held     *int64                `json:"held_pages"`
	Limit    *int64                `json:"limit_pages"`
	Over     int64                 `json:"over_pages"` // 0: no limit on locked memory refused
	Holders  []charging.UserHolder `json:"holders"`    // of the user's counter, shortly after
	Unowned  int64                 `json:"unowned_pages"`
	Closed   []object.Closed       `json:"closed"` // of held_pages, or of what the memory cgroup had: closed, and not released when the call was refused
	Remedies []remedy.Remedy       `json:"remedies"`
}

// noteOf explains a refusal by the note that its row has.
func noteOf(e *ledger.Entry, refused *charging.Refused, by holding) (asJSON refusedCall, text string) {
	r := row.Of(e)
	note := Explain(&r)
	var held *charging.Answer
	var when string
	if refused.ByUser() {
		held, when = by.counter(e)
	}
	call := refusedCall{Version: 1, Subject: advice.SubjectOfEntry(e),
		Errno: format.Errno(e.Errno), Outcome: refused.Outcome.String(), Reasons: refused.Names(), Note: note,
		Over: refused.Over(), Holders: []charging.UserHolder{}, Closed: []object.Closed{}, Remedies: append([]remedy.Remedy{}, refused.Remedies...)}
	if refused.ByMemlock() {
		call.Asked, call.Held, call.Limit = refused.Facts.Asked, refused.Facts.Held, refused.Facts.Limit
		call.Closed = append(call.Closed, refused.Closed()...)
	}
	call.Closed = append(call.Closed, refused.Unreleased...)
	if held != nil {
		call.Holders, call.Unowned = held.Holders, held.Unowned
	}
	var b strings.Builder
	fmt.Fprintf(&b, "process %d (%s) of uid %d: REFUSED with %s\n\n  %s\n", e.Caller.PID, format.Printable(e.Caller.Comm), e.Caller.UID, format.Errno(e.Errno), note)
	if held != nil {
		requestHolders(&b, held, when)
	}
	adviceRemedies(&b, refused.Remedies)
	b.WriteString("\n")
	return call, b.String()
}

// Flush does nothing: an explanation is out when it is written.
func (*Explainer) Flush(pipeline.View) error { return nil }

// Close says what succeeded and was refused, and what that is worth.
func (x *Explainer) Close(_ pipeline.View, lost uint64) error {
	x.Unsure = lost > 0
	if x.AsJSON {
		return nil
	}
	seen := "no refusal was seen"
	switch {
	case x.Refused == 1:
		seen = "1 refusal was seen"
	case x.Refused > 1:
		seen = fmt.Sprintf("%d refusals were seen", x.Refused)
	}
	text := fmt.Sprintf("%s of perf buffers, %s on BPF objects and %s by others (io_uring, AF_XDP, MSG_ZEROCOPY, VFIO, RDMA) succeeded; %s.",
		format.Count(x.succeeded[ofPerf], "mapping"), format.Count(x.succeeded[ofBPF], "call"), format.Count(x.succeeded[ofOthers], "charge"), seen)
	_, err := fmt.Fprintf(x.Out, "\n%s\n%s", text, x.elsewhere(lost))
	return err
}

// neverWatched is what charges or holds locked memory, and no trace watches.
var neverWatched = []string{"mlock(), MAP_LOCKED and whatever is mapped after mlockall(MCL_FUTURE), shared memory", "what io_uring_register(BUFFERS_UPDATE) leaves out when it does a part", "VFIO, RDMA, vDPA and iommufd where their modules were not loaded before", "what still runs when the command has ended"}

// notListed are the errors of the calls that are watched that no limit on memory can cause, and
// that are no refusals here.
const notListed = "Not listed are errors of io_uring, AF_XDP and map elements that no memory causes (EFAULT, EINVAL, EBUSY, EAGAIN; E2BIG of a full map), and ENOBUFS of a socket whose notifications take all that net.core.optmem_max allows.\n"

// elsewhere says what it means that nothing was refused. It claims nothing of what was not
// watched.
func (x *Explainer) elsewhere(lost uint64) string {
	var b strings.Builder
	switch {
	case lost > 0:
		fmt.Fprintf(&b, "%s lost: a refusal may be among them.\n", format.Count(int64(lost), "call")+map[bool]string{true: " was", false: " were"}[lost == 1])
	case x.Refused == 0:
		b.WriteString("If the command failed, it was not for want of locked memory in any of these: see `pinwatch explain --uid UID` for what refuses perf_event_open() and bpf().\n")
	}
	for _, what := range x.Unwatched {
		fmt.Fprintf(&b, "Not watched here, or less exact: %s\n", format.Printable(what))
	}
	if x.Refused == 0 {
		fmt.Fprintf(&b, "%sNever watched: %s.\n", notListed, strings.Join(neverWatched, ", "))
	}
	return b.String()
}

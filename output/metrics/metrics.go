// Package metrics tells of a trace as Prometheus wants it: a sink whose counts are read from
// another goroutine. No label is a process, and how many series there are is bounded whatever
// happens.
package metrics

import (
	"maps"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// How many users, cgroups, and kinds of refusals have series of their own; the rest is other.
const (
	mostUsers   = 100
	mostCgroups = 100
	mostKinds   = 200
	// mostKept bounds the memory for values of which the largest are told.
	mostKept = 10000
)

// Source is what a collector asks at each scrape. It is called from any goroutine.
type Source struct {
	Version, Kernel string
	// Settings are those of the machine.
	Settings func() (rule.Settings, error)
	Lost     func() uint64 // events
	// Unrecorded is how many events the recording lacks, and why it lacks the next ones, nil if
	// it does not; nil: there is no recording.
	Unrecorded func() (events uint64, now error)
	LeftOut    func() uint64 // lines of the log
	// Ahead is how far the wall clock is ahead of the times of events by now.
	Ahead func() time.Duration
}

// Collector is the sink and the prometheus.Collector.
type Collector struct {
	Source
	mu       sync.Mutex
	kinds    *bounded[[2]string] // subsystem, kind
	bytes    *bounded[amount]
	refusals *bounded[[3]string] // subsystem, errno, outcome
	byUser   *bounded[string]
	byCgroup *bounded[string]
	verdicts [ledger.Verdicts]struct{ exact, uncertain uint64 }
	users    map[user]int64   // bytes of a counter
	payers   map[string]int64 // bytes by cgroup
	unkept   int64            // of cgroups beyond those
	scheme   rule.Scheme
	lastNS   uint64
}

// amount says who was charged, or given back to.
type amount struct {
	subsystem, account string
	back               bool
}

// user names a user's counter.
type user struct {
	uid     uint32
	counter string
}

// New returns a collector of what a source adds to the trace.
func New(from Source) *Collector {
	return &Collector{Source: from,
		kinds:    newBounded(mostKinds, [2]string{other, other}),
		bytes:    newBounded(mostKinds, amount{subsystem: other, account: other}),
		refusals: newBounded(mostKinds, [3]string{other, other, other}),
		byUser:   newBounded(mostUsers, other), byCgroup: newBounded(mostCgroups, other),
		users: map[user]int64{}, payers: map[string]int64{}}
}

// Enter counts an entry. What pinwatch itself does is not counted.
func (c *Collector) Enter(e *ledger.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scheme = e.Scheme
	if e.Caller.Self || e.Kind == ledger.Closing {
		return nil
	}
	c.counter(e)
	if e.Kind == ledger.Preexisting {
		return nil
	}
	c.lastNS = max(c.lastNS, e.TimeNS)
	subsystem := row.SubsystemName(e)
	c.kinds.add([2]string{subsystem, e.Kind.String()}, 1)
	if v := &c.verdicts[e.Verdict]; e.Uncertain {
		v.uncertain++
	} else {
		v.exact++
	}
	page := int64(e.PageSize)
	c.amount(subsystem, "user", e.ChargedUser*page)
	c.amount(subsystem, "process", (e.ChargedPinned+e.LockedVM.Delta())*page)
	if o := e.Object; o != nil && o.Watched {
		c.amount(subsystem, "cgroup", o.Charged())
		for i := range o.Payers {
			c.payer(&o.Payers[i])
		}
	}
	if e.Kind == ledger.Refusal {
		c.refusals.add([3]string{subsystem, format.Errno(e.Errno), charging.OfRefusal(e).Outcome.String()}, 1)
		c.byUser.add(strconv.FormatUint(uint64(e.Caller.UID), 10), 1)
		c.byCgroup.add(cgroupLabel(e.Caller.Cgroup), 1)
	}
	return nil
}

// cgroupLabel is a path that a label may have: it is no text in UTF-8 by itself.
func cgroupLabel(path string) string {
	if path == "" {
		return "unknown"
	}
	return format.Printable(path)
}

func (c *Collector) amount(subsystem, account string, bytes int64) {
	switch {
	case bytes > 0:
		c.bytes.add(amount{subsystem, account, false}, uint64(bytes))
	case bytes < 0:
		c.bytes.add(amount{subsystem, account, true}, uint64(-bytes))
	}
}

// counter keeps the last reading of a user's counter. Of calls that overlap each other the one
// that is told of last may have read it first: what each of them did is added up instead.
func (c *Collector) counter(e *ledger.Entry) {
	if e.Object != nil && !e.Object.Rlimit || e.Kind == ledger.Preexisting && e.User.After == 0 {
		return // it was not read
	}
	key := user{e.Payer(), "perf"}
	if e.SplitCounter {
		key.counter = "locked_vm"
	}
	page := int64(e.PageSize)
	now := e.User.After * page
	last, known := c.users[key]
	switch {
	case e.User.Gone:
		now = 0
	case known && e.User.Shared && !e.Unknown():
		now = max(0, last+e.ChargedUser*page)
	}
	if !known && len(c.users) >= mostKept {
		maps.DeleteFunc(c.users, func(_ user, bytes int64) bool { return bytes == 0 })
		if len(c.users) >= mostKept {
			return
		}
	}
	c.users[key] = now
}

// payer keeps what a cgroup pays for BPF objects.
func (c *Collector) payer(p *ledger.Payer) {
	bytes := p.Pages + p.Objects
	if bytes == 0 {
		return
	}
	key := cgroupLabel(p.Cgroup)
	if _, known := c.payers[key]; !known && len(c.payers) >= mostKept {
		c.unkept += bytes
		return
	}
	if c.payers[key] += bytes; c.payers[key] == 0 {
		delete(c.payers, key)
	}
}

// Flush does nothing.
func (*Collector) Flush(pipeline.View) error { return nil }

// Close does nothing.
func (*Collector) Close(pipeline.View, uint64) error { return nil }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pinwatch_"+name, help, labels, nil)
}

var (
	buildInfo   = desc("build_info", "Always 1; the version of pinwatch.", "version")
	accounting  = desc("kernel_accounting_info", "Always 1; the kernel, and how it was seen to account perf buffers.", "kernel", "scheme")
	events      = desc("events_total", "Calls that charged, gave back, or failed, by what they meant for the accounts.", "subsystem", "kind")
	charged     = desc("charged_bytes_total", "What was charged to a user's counter, a process's, or a memory cgroup.", "subsystem", "account")
	refunded    = desc("refunded_bytes_total", "What was given back.", "subsystem", "account")
	refusals    = desc("refusals_total", "Calls that failed, by errno and by what the explanation comes to: limit, other_rule, no_memory, unknown.", "subsystem", "errno", "outcome")
	ofUsers     = desc("refusals_by_uid_total", "Calls that failed, by the user that made them; other: all further users.", "uid")
	ofCgroups   = desc("refusals_by_cgroup_total", "Calls that failed, by the cgroup of who made them; other: all further cgroups.", "cgroup")
	verdicts    = desc("verdicts_total", "Events by the rule that the kernel broke; ok: none. Uncertain ones rest on a counter that something else moved.", "verdict", "certainty")
	userLocked  = desc("user_locked_bytes", "A user's counter in the kernel when it was read last; perf: the one that perf_mmap() compares, locked_vm: the other one, where the kernel has two. Users with nothing have none; other: the sum of all but the largest.", "uid", "counter")
	allowance   = desc("user_allowance_bytes", "What perf buffers of each user may have at nobody's expense: perf_event_mlock_kb for each online CPU.")
	bpfCgroup   = desc("bpf_cgroup_bytes", "What memory cgroups were charged for BPF objects since the agent began, less what came back (--only memcg); other: the sum of all but the largest.", "cgroup")
	lost        = desc("lost_events_total", "Events that the kernel could not hand over: other numbers may be too low.")
	unrecorded  = desc("unrecorded_events_total", "Events that are not in the recording, because they could not be written.")
	isRecording = desc("recording", "1 if events are recorded, 0 if they cannot be written; the log and /healthz tell why.")
	leftOut     = desc("log_lines_left_out_total", "Lines that the log left out because they were too many.")
	lastEvent   = desc("last_event_timestamp_seconds", "When the last event happened.")
)

// Describe names all metrics.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildInfo, accounting, events, charged, refunded, refusals, ofUsers, ofCgroups, verdicts,
		userLocked, allowance, bpfCgroup, lost, unrecorded, isRecording, leftOut, lastEvent} {
		to <- d
	}
}

// Collect tells all values.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(buildInfo, 1, format.Printable(c.Version))
	if settings, err := c.Settings(); err == nil {
		bytes := float64(settings.UserLockLimit()) * float64(settings.PageSize)
		if bytes < 0 {
			bytes = math.Inf(1)
		}
		gauge(allowance, bytes)
	}
	count(lost, c.Lost())
	count(leftOut, c.LeftOut())
	if c.Unrecorded != nil {
		missed, now := c.Unrecorded()
		count(unrecorded, missed)
		recording := 1.0
		if now != nil {
			recording = 0
		}
		gauge(isRecording, recording)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	gauge(accounting, 1, format.Printable(c.Kernel), c.scheme.String())
	if c.lastNS != 0 {
		gauge(lastEvent, float64(c.lastNS)/1e9+c.Ahead().Seconds())
	}
	for key, n := range c.kinds.counts {
		count(events, n, key[:]...)
	}
	for key, n := range c.bytes.counts {
		d := charged
		if key.back {
			d = refunded
		}
		count(d, n, key.subsystem, key.account)
	}
	for key, n := range c.refusals.counts {
		count(refusals, n, key[:]...)
	}
	for uid, n := range c.byUser.counts {
		count(ofUsers, n, uid)
	}
	for path, n := range c.byCgroup.counts {
		count(ofCgroups, n, path)
	}
	for v := range ledger.Verdict(ledger.Verdicts) {
		count(verdicts, c.verdicts[v].exact, v.String(), "exact")
		count(verdicts, c.verdicts[v].uncertain, v.String(), "uncertain")
	}
	for _, which := range []string{"perf", "locked_vm"} {
		of := map[uint32]int64{}
		for key, bytes := range c.users {
			if key.counter == which && bytes != 0 {
				of[key.uid] = bytes
			}
		}
		uids, rest := largest(of, mostUsers)
		for _, uid := range uids {
			gauge(userLocked, float64(of[uid]), strconv.FormatUint(uint64(uid), 10), which)
		}
		if rest != 0 {
			gauge(userLocked, float64(rest), other, which)
		}
	}
	paths, less := largest(c.payers, mostCgroups)
	for _, path := range paths {
		gauge(bpfCgroup, float64(c.payers[path]), path)
	}
	if rest := c.unkept + less; rest != 0 {
		gauge(bpfCgroup, float64(rest), other)
	}
}

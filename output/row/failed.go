package row

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/refusal"
)

var notFailed refusal.Call // is only read

// failed is what was seen of a call that failed, to read.
func (r *Row) failed() *refusal.Call {
	if r.Failed == nil {
		return &notFailed
	}
	return r.Failed
}

// failedField is a field of that; nil where there is none.
func failedField[T any](field func(*refusal.Call) *T) func(*Row) *T {
	return func(r *Row) *T {
		if r.Failed == nil {
			return nil
		}
		return field(r.Failed)
	}
}

func failedInteger[T integers](name string, of Subsystem, help string, field func(*refusal.Call) *T) Column {
	return integer(name, of, help, failedField(field))
}

func failedFlag(name string, of Subsystem, help string, field func(*refusal.Call) *bool) Column {
	return boolean(name, of, help, failedField(field))
}

// failedColumns tell of calls that failed: where, and what they had asked for.
func failedColumns() []Column {
	return []Column{
		text("refused_in", Perf|BPF|Others, "function of the kernel's, system call, or command of bpf(2), that was seen to fail; empty: the call did not fail, or this was not seen", func(r *Row) string { return r.failed().Function }).parsed(parseFunction),
		integer("hard_limit_pages", Perf|BPF|Others, "of a call that failed, the hard limit of RLIMIT_MEMLOCK", func(r *Row) *int64 { return &r.Caller.HardLimit }),
		integer("parent_limit_pages", Perf|BPF|Others, "of a call that failed, RLIMIT_MEMLOCK of the process's parent", func(r *Row) *int64 { return &r.Caller.ParentLimit }),
		text("accounting", BPF|Others, "of a call that failed, the comparison with the limit: refused, passed, not_reached, or unseen", func(r *Row) string { return r.failed().Accounting.String() }).parsed(parseAccounting(func(c *refusal.Call) *refusal.Accounting { return &c.Accounting })),
		failedInteger("asked_pages", BPF|Others, "what a call that failed asked for in all, up to what was refused; derived from its arguments where accounting is unseen or not_reached; 0: not known", func(c *refusal.Call) *int64 { return &c.Asked }),
		failedInteger("last_asked_pages", Others, "the part of it that the kernel compared last; 0: unseen", func(c *refusal.Call) *int64 { return &c.LastAsked }),
		failedInteger("last_held_pages", Others, "the user's counter at that comparison, with the call's earlier parts", func(c *refusal.Call) *int64 { return &c.LastHeld }),
		failedFlag("exempt", Others, "the io_uring was made with CAP_IPC_LOCK: nobody is charged for it", func(c *refusal.Call) *bool { return &c.Exempt }),
		failedFlag("ring_charged", Others, "it was made without: its maker is charged for it, whoever uses it", func(c *refusal.Call) *bool { return &c.Charged }),
		failedInteger("request", Others, "opcode of an io_uring_register(2) that failed, or the flags of a ring that was to be made", func(c *refusal.Call) *uint32 { return &c.Request }),
		failedFlag("mapping_private", Perf, "of a mapping that failed: it was to be MAP_PRIVATE", func(c *refusal.Call) *bool { return &c.Mapping.Private }),
		failedInteger("mapping_offset_pages", Perf, "of a mapping that failed: its offset; other than 0: it was to be an AUX area", func(c *refusal.Call) *int64 { return &c.Mapping.Offset }),
		failedFlag("event_inherited", Perf, "of a mapping that failed: the event has attr.inherit", func(c *refusal.Call) *bool { return &c.Mapping.Inherited }),
		failedInteger("event_cpu", Perf, "of a mapping that failed: the CPU that the event is bound to; -1: none", func(c *refusal.Call) *int32 { return &c.Mapping.CPU }),
		failedFlag("event_revoked", Perf, "of a mapping that failed: the event's PMU is gone", func(c *refusal.Call) *bool { return &c.Mapping.Revoked }),
		failedFlag("aux_capable", Perf, "of a mapping that failed: the event's PMU can fill an AUX area", func(c *refusal.Call) *bool { return &c.Mapping.AUXCapable }),
		failedInteger("aux_offset_pages", Perf, "of a mapping that failed: offset of the AUX area that is there; 0: none is", func(c *refusal.Call) *int64 { return &c.Mapping.AUXOffset }),
		failedInteger("aux_want_offset_bytes", Perf, "of a mapping that failed: aux_offset in the control page", func(c *refusal.Call) *uint64 { return &c.Mapping.WantOffset }),
		failedInteger("aux_want_size_bytes", Perf, "of a mapping that failed: aux_size in the control page", func(c *refusal.Call) *uint64 { return &c.Mapping.WantSize }),
		failedInteger("split_call", Perf, "number of the system call that would have split a mapping; -1: not known", func(c *refusal.Call) *int32 { return &c.Mapping.SystemCall }),
		text("io_uring_for", Others, "of a ring that was refused with EPERM, who may make one by kernel.io_uring_disabled just after: all, group or nobody; empty: there is no such setting, or it could not be read", func(r *Row) string { return r.failed().RingsFor.String() }).parsed(parseRingsFor),
		text("verifier", BPF, "of a program that was not loaded, what the verifier said: refused, passed, not_reached, or unseen", func(r *Row) string { return r.failed().Verifier.String() }).parsed(parseAccounting(func(c *refusal.Call) *refusal.Accounting { return &c.Verifier })),
		text("allocation", BPF, "of a program that was not loaded, whether there was memory for it as such: refused, passed, not_reached, or unseen", func(r *Row) string { return r.failed().Allocation.String() }).parsed(parseAccounting(func(c *refusal.Call) *refusal.Accounting { return &c.Allocation })),
		failedFlag("attributes_known", BPF, "the attributes of bpf(2) that failed have nothing beyond those that this kernel has", func(c *refusal.Call) *bool { return &c.AttributesKnown }),
		text("memory", BPF|Others, "of a call of io_uring's, or for a BPF object, that failed, what the memory cgroups said to what it allocated: refused, passed, not_reached (all had room), or unseen", func(r *Row) string { return r.failed().Memory.String() }).parsed(parseAccounting(func(c *refusal.Call) *refusal.Accounting { return &c.Memory })),
		failedInteger("memory_cgroup_id", Others, "the cgroup that had no room for it at last", func(c *refusal.Call) *uint64 { return &c.Limit.CgroupID }),
		textField("memory_cgroup", Others, "its path", failedField(func(c *refusal.Call) *string { return &c.Limit.Cgroup })),
		failedInteger("memory_usage_bytes", Others, "its memory.current (memory.usage_in_bytes of v1), after the kernel had tried to free some", func(c *refusal.Call) *int64 { return &c.Limit.UsageBytes }),
		failedInteger("memory_wanted_bytes", Others, "what it was to have room for at once, beside that", func(c *refusal.Call) *int64 { return &c.Limit.WantedBytes }),
		failedInteger("memory_limit_bytes", Others, "its memory.max (memory.limit_in_bytes of v1); -1: no limit", func(c *refusal.Call) *int64 { return &c.Limit.LimitBytes }),
		failedInteger("machine_bytes", BPF, "of a call that failed: how much memory the machine has; 0: not known", func(c *refusal.Call) *int64 { return &c.MachineBytes }),
		failedInteger("possible_cpus", BPF, "of a call that failed: how many CPUs the machine can have; 0: not known", func(c *refusal.Call) *uint32 { return &c.PossibleCPUs }),
		failedInteger("request_count", Others, "how many things that was given, or entries of the ring that was to be made", func(c *refusal.Call) *uint32 { return &c.Count }),
	}
}

// parseFunction makes the row one of a call that failed. Its column stands before those
// of the call's values.
func parseFunction(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil || name == "" {
		return err
	}
	r.Failed = &refusal.Call{Function: name}
	switch name {
	case refusal.MaySplit:
		r.Op = ledger.Split
	case refusal.MapUpdate, refusal.MapUpdateBatch:
		r.Op = ledger.Grow
	}
	return nil
}

// parseAccounting parses an answer of the kernel's.
func parseAccounting(field func(*refusal.Call) *refusal.Accounting) func(*Row, []byte) error {
	return func(r *Row, b []byte) error {
		var name string
		if err := json.Unmarshal(b, &name); err != nil {
			return err
		}
		a, ok := refusal.ParseAccounting(name)
		if !ok {
			return fmt.Errorf("unknown answer %q", name)
		}
		if r.Failed != nil {
			*field(r.Failed) = a
		}
		return nil
	}
}

func parseRingsFor(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return err
	}
	who, ok := refusal.ParseRingsFor(name)
	if !ok {
		return fmt.Errorf("unknown %q", name)
	}
	if r.Failed != nil {
		r.Failed.RingsFor = who
	}
	return nil
}

// outcome is what the explanation of a call that failed comes to.
func outcome(r *Row) string {
	if r.Kind != ledger.Refusal || r.Summary {
		return ""
	}
	return charging.OfRefusal(&r.Entry).Outcome.String()
}

// reasons are the names of the kernel's reasons that are left.
func reasons(r *Row) string {
	if r.Kind != ledger.Refusal || r.Summary {
		return ""
	}
	return strings.Join(charging.OfRefusal(&r.Entry).Names(), ",")
}

// over is by how many pages a limit was exceeded that refused.
func over(r *Row) int64 {
	if r.Kind != ledger.Refusal || r.Summary {
		return 0
	}
	return charging.OfRefusal(&r.Entry).Over()
}

// closedPages are what a user's counter was held for what is closed.
func closedPages(r *Row) int64 {
	if r.Held == nil {
		return 0
	}
	return object.Pages(r.Held.Closed)
}

// closed says of what kinds that is.
func closed(r *Row) string {
	if r.Held == nil {
		return ""
	}
	var list []string
	for _, c := range r.Held.Closed {
		list = append(list, fmt.Sprintf("%s %d %d %d", c.What, c.Pages, c.PID, c.AgeNS))
	}
	return strings.Join(list, "; ")
}

// remedies are what helps, in brief.
func remedies(r *Row) string {
	if r.Kind != ledger.Refusal || r.Summary {
		return ""
	}
	return strings.Join(charging.Brief(&r.Entry), "; ")
}

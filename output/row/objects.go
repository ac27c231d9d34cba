package row

import (
	"encoding/json"
	"fmt"

	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// object is the row's object. A row that has none gets one that is discarded.
func (r *Row) object() *ledger.Object {
	if r.Object == nil {
		return &ledger.Object{}
	}
	return r.Object
}

func objectInteger[T integers](name, help string, field func(*ledger.Object) *T) Column {
	return integer(name, BPF|Memcg, help, func(r *Row) *T { return field(r.object()) })
}

func objectText(name, help string, field func(*ledger.Object) *string) Column {
	return textField(name, BPF|Memcg, help, func(r *Row) *string { return field(r.object()) })
}

func objectFlag(name, help string, field func(*ledger.Object) *bool) Column {
	return boolean(name, BPF|Memcg, help, func(r *Row) *bool { return field(r.object()) })
}

func objectNames(name, help string, field func(*ledger.Object) *container.Names) Column {
	return text(name, BPF|Memcg, help, func(r *Row) string { return field(r.object()).String() }).
		parsed(func(r *Row, b []byte) error {
			var names string
			err := json.Unmarshal(b, &names)
			*field(r.object()) = container.Parse(names)
			return err
		})
}

// objectColumns tell of BPF maps and programs, and what cgroups are charged for them.
func objectColumns() []Column {
	columns := []Column{
		text("object", BPF|Memcg, "map or prog", func(r *Row) string { return ObjectKind(r.object()) }).parsed(parseObjectKind),
		objectInteger("object_key", "identifies the object within the trace", func(o *ledger.Object) *uint64 { return &o.Key }),
		objectInteger("object_id", "the kernel's id of the object; 0: not known", func(o *ledger.Object) *uint32 { return &o.ID }),
		objectInteger("object_type", "bpf_map_type or bpf_prog_type, as a number", func(o *ledger.Object) *uint32 { return &o.Type }),
		text("object_type_name", BPF|Memcg, "the kernel's name of the type, such as percpu_array", func(r *Row) string { return ObjectType(r.object()) }),
		objectText("object_name", "name that its maker gave it", func(o *ledger.Object) *string { return &o.Name }),
		objectInteger("key_size_bytes", "size of a map's key", func(o *ledger.Object) *uint32 { return &o.KeySize }),
		objectInteger("value_size_bytes", "size of a map's value", func(o *ledger.Object) *uint32 { return &o.ValueSize }),
		objectInteger("max_entries", "elements that a map has room for", func(o *ledger.Object) *uint32 { return &o.MaxEntries }),
		objectInteger("map_flags", "flags of a map, as a number", func(o *ledger.Object) *uint32 { return &o.Flags }),
		text("regime", BPF|Memcg, "who pays for BPF memory: the user (rlimit) or cgroups (memcg)", func(r *Row) string { return regime(r.object()) }).parsed(parseRegime),
		objectFlag("memcg_watched", "what cgroups are charged was watched", func(o *ledger.Object) *bool { return &o.Watched }),
		objectFlag("memcg_freed_later", "elements of the map are freed after it", func(o *ledger.Object) *bool { return &o.LateElements }),
		derived("memcg_charged_bytes", BPF|Memcg, "charged to all cgroups; negative: given back", func(r *Row) int64 { return r.object().Charged() }),
	}
	for i, which := range []string{"first", "second"} {
		prefix := fmt.Sprintf("memcg_payer%d_", i+1)
		columns = append(columns,
			objectInteger(prefix+"cgroup_id", "the "+which+" cgroup that was charged; 0: none", func(o *ledger.Object) *uint64 { return &o.Payers[i].CgroupID }),
			objectInteger(prefix+"page_bytes", "charged to the "+which+" cgroup for pages, vmalloc included", func(o *ledger.Object) *int64 { return &o.Payers[i].Pages }),
			objectInteger(prefix+"object_bytes", "charged to the "+which+" cgroup by the slab and percpu allocators", func(o *ledger.Object) *int64 { return &o.Payers[i].Objects }),
			objectText(prefix+"cgroup", "path of the "+which+" cgroup, where it is known", func(o *ledger.Object) *string { return &o.Payers[i].Cgroup }),
			objectNames(prefix+"names", "the "+which+" cgroup's namespace/pod/container, or container, where they are known", func(o *ledger.Object) *container.Names { return &o.Payers[i].Names }))
	}
	return append(columns,
		objectInteger("memcg_further_bytes", "charged to further cgroups", func(o *ledger.Object) *int64 { return &o.FurtherBytes }),
		objectInteger("memcg_unpaid_bytes", "memory that no cgroup, or only the root, pays for", func(o *ledger.Object) *int64 { return &o.UnpaidBytes }),
		objectInteger("memcg_map_cgroup_id", "cgroup that pays for what the map takes later", func(o *ledger.Object) *uint64 { return &o.MapCgroupID }),
		objectText("memcg_map_cgroup", "path of the cgroup that pays later, where it is known", func(o *ledger.Object) *string { return &o.MapCgroup }),
		objectNames("memcg_map_names", "the same cgroup's namespace/pod/container, or container", func(o *ledger.Object) *container.Names { return &o.MapNames }),
		objectFlag("memcg_refused", "the charge of a cgroup was seen to fail, for the call or for an element of the map just before it", func(o *ledger.Object) *bool { return &o.Refused }),
		objectInteger("memcg_limit_cgroup_id", "cgroup that refused, else the first one that pays", func(o *ledger.Object) *uint64 { return &o.LimitCgroupID }),
		objectText("memcg_limit_cgroup", "path of the cgroup that refused, else of the first payer", func(o *ledger.Object) *string { return &o.LimitCgroup }),
		objectNames("memcg_limit_names", "the same cgroup's namespace/pod/container, or container", func(o *ledger.Object) *container.Names { return &o.LimitNames }),
		objectInteger("memcg_usage_bytes", "memory.current (memory.usage_in_bytes of v1) of the cgroup that refused, else of the first payer", func(o *ledger.Object) *int64 { return &o.UsageBytes }),
		objectInteger("memcg_limit_bytes", "memory.max (memory.limit_in_bytes of v1) of the same cgroup; -1: no limit", func(o *ledger.Object) *int64 { return &o.LimitBytes }))
}

// ObjectKind is what an object is.
func ObjectKind(o *ledger.Object) string {
	if o.Program {
		return bpfobj.KindProgram
	}
	return bpfobj.KindMap
}

// ObjectType is the kernel's name of an object's type.
func ObjectType(o *ledger.Object) string {
	if o.Program {
		return bpfobj.ProgramType(o.Type)
	}
	return bpfobj.MapType(o.Type)
}

// parseObjectKind makes the row one about an object. Its column stands before
// those of the object's values.
func parseObjectKind(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil || name == "" {
		return err
	}
	r.Object = &ledger.Object{Program: name == bpfobj.KindProgram}
	return nil
}

func regime(o *ledger.Object) string {
	if o.Rlimit {
		return "rlimit"
	}
	return "memcg"
}

func parseRegime(r *Row, b []byte) error {
	var name string
	err := json.Unmarshal(b, &name)
	r.object().Rlimit = name == "rlimit"
	return err
}

func objectID(o *ledger.Object) string {
	if o.ID == 0 {
		return none
	}
	return ObjectKind(o)[:1] + fmt.Sprint(o.ID)
}

// objectPages is what the row is about: pages charged to the user, or bytes
// charged to cgroups, in pages.
func objectPages(r *Row) int64 {
	if r.Object.Rlimit || r.PageSize == 0 {
		return r.Object.Pages
	}
	bytes, page := r.Object.Charged(), int64(r.PageSize)
	if bytes < 0 {
		return -((page - 1 - bytes) / page)
	}
	return (bytes + page - 1) / page
}

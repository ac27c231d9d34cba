package tracer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// The kernel has types by the hundred thousand, and the programs name a few dozen.
// To index all of them would be the largest part of a start. So the library gets a
// copy that ends with the last type that is asked for, and in which every other is
// a placeholder: ids, which the kernel goes by, stay as they are. The functions,
// which are the kernel's last types, are looked up here.

// The layout of BTF: include/uapi/linux/btf.h.
const (
	btfMagic      = 0xeb9f
	btfHeaderSize = 24 // of what is needed of it
	btfTypeSize   = 12 // of a type without what follows some kinds

	kindInt       = 1
	kindPtr       = 2
	kindArray     = 3
	kindStruct    = 4
	kindUnion     = 5
	kindEnum      = 6
	kindFwd       = 7
	kindTypedef   = 8
	kindVolatile  = 9
	kindConst     = 10
	kindRestrict  = 11
	kindFunc      = 12
	kindFuncProto = 13
	kindVar       = 14
	kindDatasec   = 15
	kindDeclTag   = 17
	kindTypeTag   = 18
	kindEnum64    = 19
	kindKnown     = kindEnum64
)

// rawTypes are types as the kernel keeps them: its own, or a module's, whose ids
// and strings go on where the kernel's end.
type rawTypes struct {
	base    *rawTypes // nil: these are the kernel's own
	types   []byte
	strings []byte
	offsets []uint32 // in types, by id less the first
	kept    []bool   // by the same
	place   uint32   // the id of the first in what is made of them
	end     int      // how many there are up to the last that is kept
}

// parseTypes finds where each type begins.
func parseTypes(raw []byte, base *rawTypes) (*rawTypes, error) {
	order := binary.NativeEndian
	if len(raw) < btfHeaderSize || order.Uint16(raw) != btfMagic {
		return nil, errors.New("not BTF of this machine")
	}
	body := order.Uint32(raw[4:])
	section := func(at int) []byte {
		begin := uint64(body) + uint64(order.Uint32(raw[at:]))
		end := begin + uint64(order.Uint32(raw[at+4:]))
		if end > uint64(len(raw)) {
			return nil
		}
		return raw[begin:end]
	}
	r := &rawTypes{base: base, types: section(8), strings: section(16)}
	if r.types == nil || r.strings == nil {
		return nil, errors.New("BTF is cut off")
	}
	r.offsets = make([]uint32, 0, len(r.types)/24)
	if base == nil {
		r.offsets = append(r.offsets, 0) // void, which is nowhere
	}
	for at := 0; at < len(r.types); {
		if at+btfTypeSize > len(r.types) {
			return nil, errors.New("BTF is cut off")
		}
		size, err := typeSize(order.Uint32(r.types[at+4:]))
		if err != nil {
			return nil, err
		}
		r.offsets = append(r.offsets, uint32(at))
		at += size
		if at > len(r.types) {
			return nil, errors.New("BTF is cut off")
		}
	}
	r.kept = make([]bool, len(r.offsets))
	return r, nil
}

func kindOf(info uint32) uint32 { return info >> 24 & 0x1f }

// typeSize is how many bytes a type takes.
func typeSize(info uint32) (int, error) {
	n := int(info & 0xffff)
	switch kind := kindOf(info); kind {
	case kindInt, kindVar, kindDeclTag:
		return btfTypeSize + 4, nil
	case kindArray:
		return btfTypeSize + 12, nil
	case kindStruct, kindUnion, kindDatasec, kindEnum64:
		return btfTypeSize + 12*n, nil
	case kindEnum, kindFuncProto:
		return btfTypeSize + 8*n, nil
	default:
		if kind == 0 || kind > kindKnown {
			return 0, fmt.Errorf("BTF of an unknown kind %d", kind)
		}
		return btfTypeSize, nil
	}
}

// first is the id of the first type.
func (r *rawTypes) first() uint32 {
	if r.base == nil {
		return 0
	}
	return uint32(len(r.base.offsets))
}

// at is a type.
func (r *rawTypes) at(id uint32) []byte {
	if id < r.first() {
		return r.base.at(id)
	}
	i := id - r.first()
	if int(i) >= len(r.offsets) {
		panic(errBadReference)
	}
	return r.types[r.offsets[i]:]
}

// name is a string; "" at 0.
func (r *rawTypes) name(offset uint32) []byte {
	if r.base != nil {
		if int(offset) < len(r.base.strings) {
			return r.base.name(offset)
		}
		offset -= uint32(len(r.base.strings))
	}
	if int(offset) >= len(r.strings) {
		panic(errBadReference)
	}
	name := r.strings[offset:]
	end := bytes.IndexByte(name, 0)
	if end < 0 {
		panic(errBadReference)
	}
	return name[:end]
}

var errBadReference = errors.New("BTF refers to what it does not hold")

// references calls back with where a type has a string, and where it has the id of
// another one.
func references(t []byte, text, id func(at int)) {
	info := binary.NativeEndian.Uint32(t[4:])
	n, kind := int(info&0xffff), kindOf(info)
	text(0)
	switch kind {
	case kindPtr, kindTypedef, kindVolatile, kindConst, kindRestrict, kindTypeTag, kindFunc, kindFuncProto:
		id(8)
	case kindArray:
		id(12)
		id(16)
	}
	size := 12
	switch kind {
	case kindEnum, kindFuncProto:
		size = 8
	case kindStruct, kindUnion, kindEnum64:
	default:
		return
	}
	for at := btfTypeSize; at < btfTypeSize+n*size; at += size {
		text(at)
		if kind != kindEnum && kind != kindEnum64 {
			id(at + 4)
		}
	}
}

// keep takes a type and what is inside of it: what it only points to is not needed
// to know where its fields are.
func (r *rawTypes) keep(id uint32) {
	if id < r.first() {
		r.base.keep(id)
		return
	}
	t := r.at(id)
	i := int(id - r.first())
	if id == 0 || r.kept[i] {
		return
	}
	r.kept[i] = true
	r.end = max(r.end, i+1)
	switch kindOf(binary.NativeEndian.Uint32(t[4:])) {
	case kindPtr, kindFuncProto:
		return
	}
	references(t, func(int) {}, func(at int) { r.keep(binary.NativeEndian.Uint32(t[at:])) })
}

// find keeps all types with one of these names, and says of functions what they are.
func (r *rawTypes) find(names map[string]bool, functions map[string]function) {
	for i, offset := range r.offsets {
		t := r.types[offset:]
		name := binary.NativeEndian.Uint32(t)
		if name == 0 || r.base == nil && i == 0 {
			continue
		}
		switch kindOf(binary.NativeEndian.Uint32(t[4:])) {
		case kindFunc:
			if name := r.name(name); names[string(name)] {
				functions[string(name)] = r.function(r.first()+uint32(i), t)
			}
		case kindStruct, kindUnion, kindEnum, kindEnum64, kindTypedef, kindInt, kindFwd:
			if names[string(r.name(name))] {
				r.keep(r.first() + uint32(i))
			}
		}
	}
}

// function is one of the kernel's.
type function struct {
	id         uint32   // the kernel's of its type
	parameters []string // their names
}

func (r *rawTypes) function(id uint32, t []byte) function {
	f := function{id: id}
	prototype := r.at(binary.NativeEndian.Uint32(t[8:]))
	for n := range int(binary.NativeEndian.Uint16(prototype[4:])) {
		f.parameters = append(f.parameters, string(r.name(binary.NativeEndian.Uint32(prototype[btfTypeSize+8*n:]))))
	}
	return f
}

// marshal makes BTF of the types that are kept: the kernel's, and behind them those
// of modules.
func marshal(kernel *rawTypes, modules []*rawTypes) []byte {
	order := binary.NativeEndian
	var placeholder [btfTypeSize]byte // a pointer to void
	order.PutUint32(placeholder[4:], kindPtr<<24)
	size := kernel.end
	for _, r := range modules {
		size += r.end
	}
	types := make([]byte, 0, size*btfTypeSize+64<<10)
	text := []byte{0}
	last := uint32(kernel.end)
	for _, r := range append([]*rawTypes{kernel}, modules...) {
		if r.base != nil {
			r.place = last
			last += uint32(r.end)
		}
		for i, offset := range r.offsets[:r.end] {
			if r.base == nil && i == 0 {
				continue // void
			}
			if !r.kept[i] {
				types = append(types, placeholder[:]...)
				continue
			}
			begin := len(types)
			size, _ := typeSize(order.Uint32(r.types[offset+4:])) // known: it was parsed
			types = append(types, r.types[offset:int(offset)+size]...)
			t := types[begin:]
			references(t, func(at int) {
				name := r.name(order.Uint32(t[at:]))
				order.PutUint32(t[at:], 0)
				if len(name) > 0 {
					order.PutUint32(t[at:], uint32(len(text)))
					text = append(append(text, name...), 0)
				}
			}, func(at int) { order.PutUint32(t[at:], r.placed(order.Uint32(t[at:]))) })
		}
	}
	raw := make([]byte, btfHeaderSize, btfHeaderSize+len(types)+len(text))
	order.PutUint16(raw, btfMagic)
	raw[2] = 1 // the version
	order.PutUint32(raw[4:], btfHeaderSize)
	order.PutUint32(raw[12:], uint32(len(types)))
	order.PutUint32(raw[16:], uint32(len(types)))
	order.PutUint32(raw[20:], uint32(len(text)))
	return append(append(raw, types...), text...)
}

// placed is the id of a type in what is made of these: void, where it is only
// pointed to and was left out.
func (r *rawTypes) placed(id uint32) uint32 {
	if id < r.first() {
		return r.base.placed(id)
	}
	if i := id - r.first(); int(i) < r.end {
		return r.place + i
	}
	return 0
}

// needs are the names of types and functions that something asks for; none: all.
type needs struct {
	names   map[string]bool
	modules bool // of modules, too
}

// needsOf are those of programs: what they call a type, and some functions and types
// that are asked about.
func needsOf(specs []*ebpf.CollectionSpec, modules bool, more ...string) (needs, error) {
	n := needs{map[string]bool{}, modules}
	for _, name := range more {
		n.names[name] = true
	}
	for _, spec := range specs {
		for t, err := range spec.Types.All() {
			if err != nil {
				return n, fmt.Errorf("read the built-in BPF programs: %w", err)
			}
			// A flavour, name___flavour, is another view of the same type.
			if name, _, _ := strings.Cut(t.TypeName(), "___"); name != "" {
				n.names[name] = true
			}
		}
	}
	return n, nil
}

// read reads the running kernel's types from a directory such as /sys/kernel/btf.
// The ids are those of the kernel; a module's mean nothing to it.
func (n needs) read(dir string) (_ *btf.Spec, _ map[string]function, err error) {
	if len(n.names) == 0 {
		return nil, nil, nil
	}
	defer func() {
		if r := recover(); r == errBadReference {
			err = errBadReference
		} else if r != nil {
			panic(r)
		}
	}()
	raw, free, err := readAside(filepath.Join(dir, filepath.Base(kernelBTF)))
	if err != nil {
		return nil, nil, err
	}
	defer free()
	kernel, err := parseTypes(raw, nil)
	if err != nil {
		return nil, nil, err
	}
	functions := map[string]function{}
	kernel.find(n.names, functions)
	var modules []*rawTypes
	if n.modules {
		if modules, err = kernel.modules(dir, n.names, functions); err != nil {
			return nil, nil, err
		}
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(marshal(kernel, modules)))
	return spec, functions, err
}

// modules are those that have any of the types.
func (r *rawTypes) modules(dir string, names map[string]bool, functions map[string]function) (list []*rawTypes, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Name() == filepath.Base(kernelBTF) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		module, err := parseTypes(raw, r)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", entry.Name(), err)
		}
		module.find(names, functions)
		if module.end > 0 {
			list = append(list, module)
		}
	}
	return list, nil
}

// readAside reads a file into memory that is given back at once, and not kept for
// what may come: it is larger than all that a trace needs.
func readAside(path string) (raw []byte, free func(), err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if raw, err = unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE); err == nil {
		return raw, func() { unix.Munmap(raw) }, nil // since 6.16
	}
	raw, err = unix.Mmap(-1, 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for %s: %w", path, err)
	}
	free = func() { unix.Munmap(raw) }
	if _, err := io.ReadFull(file, raw); err != nil {
		free()
		return nil, nil, err
	}
	return raw, free, nil
}

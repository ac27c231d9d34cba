package top

import (
	"iter"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
)

// tree is how the rows of a view hang on each other.
type tree[T any] struct {
	grown  func(*accounts, []T) []T // with the branches, which have the sums
	parent func(*T) string          // its id; "": none
	place  func(t *T, depth int, branch, folded bool)
	branch func(*T) bool
}

// hang puts rows behind what they hang on, in the order that they have, and leaves out what is
// folded.
func (v *view[T]) hang(rows []*T, folded map[string]bool) []*T {
	below := map[string][]*T{}
	for _, t := range rows {
		parent := v.tree.parent(t)
		below[parent] = append(below[parent], t)
	}
	hung := make([]*T, 0, len(rows))
	var walk func(parent string, depth int)
	walk = func(parent string, depth int) {
		for _, t := range below[parent] {
			id := v.id(t)
			v.tree.place(t, depth, len(below[id]) > 0, folded[id])
			if hung = append(hung, t); !folded[id] {
				walk(id, depth+1)
			}
		}
	}
	walk("", 0)
	return hung
}

// withBranches are rows and all that they hang on.
func (v *view[T]) withBranches(rows []*T, all []T) []*T {
	byID, there := map[string]*T{}, map[string]bool{}
	for i := range all {
		byID[v.id(&all[i])] = &all[i]
	}
	for _, t := range rows {
		there[v.id(t)] = true
	}
	for _, t := range slices.Clone(rows) {
		for t = byID[v.tree.parent(t)]; t != nil && !there[v.id(t)]; t = byID[v.tree.parent(t)] {
			there[v.id(t)] = true
			rows = append(rows, t)
		}
	}
	return rows
}

// cgroupTree makes one of the paths of cgroups. What has no path stands beside it.
func cgroupTree() *tree[cgroupRow] {
	return &tree[cgroupRow]{
		grown:  cgroupBranches,
		parent: func(g *cgroupRow) string { return format.Printable(above(g.path)) },
		place:  (*cgroupRow).place,
		branch: func(g *cgroupRow) bool { return g.branch },
	}
}

// upwards yields a path, what it is in, and so on up to the root. An empty path is in nothing.
func upwards(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for ; path != ""; path = above(path) {
			if !yield(path) {
				return
			}
		}
	}
}

// above is what a path is in; "" for the root.
func above(path string) string {
	i := strings.LastIndexByte(path, '/')
	switch {
	case i < 0 || path == "/":
		return ""
	case i == 0:
		return "/"
	}
	return path[:i]
}

// cgroupBranches are all cgroups with the sums of what is in them.
func cgroupBranches(a *accounts, rows []cgroupRow) []cgroupRow {
	var all []cgroupRow
	sums := map[string]*cgroupRow{}
	for i := range rows {
		g := &rows[i]
		if g.path == "" {
			all = append(all, *g)
		}
		for path := range upwards(g.path) {
			sum := sums[path]
			if sum == nil {
				sum = &cgroupRow{name: format.Printable(path), path: path, allowance: g.allowance, trend: a.groups[groupKey{path: path}].totals}
				sums[path] = sum
			}
			if path == g.path {
				sum.container = g.container
			}
			sum.sum(g)
		}
	}
	for _, sum := range sums {
		all = append(all, *sum)
	}
	slices.SortFunc(all, func(x, y cgroupRow) int { return strings.Compare(x.name, y.name) })
	return all
}

// sum adds another cgroup.
func (g *cgroupRow) sum(more *cgroupRow) {
	g.members = append(g.members, more.members...)
	g.processes += more.processes
	g.buffers += more.buffers
	g.bufferPages += more.bufferPages
	g.pinned += more.pinned
	g.share += more.share
	g.over += more.over
	g.refusals += more.refusals
	g.events += more.events
	g.perSecond += more.perSecond
	if more.broken != nil && (g.broken == nil || more.broken.Number > g.broken.Number) {
		g.broken = more.broken
	}
}

// place gives a row its label in the tree: the last part of its path, as deep as it is.
func (g *cgroupRow) place(depth int, branch, folded bool) {
	mark := "  "
	switch {
	case branch && folded:
		mark = "▸ "
	case branch:
		mark = "▾ "
	}
	name := g.name
	if i := strings.LastIndexByte(name, '/'); depth > 0 && i >= 0 {
		name = name[i+1:]
	}
	g.branch, g.label = branch, strings.Repeat("  ", depth)+mark+name
}

package metrics

import (
	"cmp"
	"maps"
	"slices"
)

// other is what a label says of all that has no place of its own.
const other = "other"

// bounded counts by labels that others choose, such as uids and paths of cgroups. The first
// ones have a place of their own for good, for a counter may not go back; the rest share one.
type bounded[K comparable] struct {
	most   int
	other  K
	counts map[K]uint64
}

func newBounded[K comparable](most int, other K) *bounded[K] {
	return &bounded[K]{most, other, map[K]uint64{}}
}

func (b *bounded[K]) add(key K, n uint64) {
	if _, known := b.counts[key]; !known && len(b.counts) >= b.most {
		key = b.other
	}
	b.counts[key] += n
}

// largest are the values that are furthest from 0, and the sum of the rest.
func largest[K cmp.Ordered](values map[K]int64, most int) (keys []K, rest int64) {
	keys = slices.SortedFunc(maps.Keys(values), func(a, b K) int {
		return cmp.Or(cmp.Compare(max(values[b], -values[b]), max(values[a], -values[a])), cmp.Compare(a, b))
	})
	for _, key := range keys[min(most, len(keys)):] {
		rest += values[key]
	}
	return keys[:min(most, len(keys))], rest
}

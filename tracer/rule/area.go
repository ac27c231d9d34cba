package rule

// Area is the part of a perf buffer that a call is about.
type Area uint8

// A buffer has a data area and may have an AUX area. Each is charged by itself.
const (
	Data Area = iota // the control page and the data pages
	AUX
)

var areaNames = [...]string{Data: "data", AUX: "aux"}

func (a Area) String() string { return areaNames[a] }

// ParseArea is the inverse of String.
func ParseArea(name string) (Area, bool) {
	for a, n := range areaNames {
		if n == name {
			return Area(a), true
		}
	}
	return 0, false
}

// Unlimited is the limit of a process without one (RLIM_INFINITY), in pages of 64 KiB, the
// largest, and every larger value means the same, as it is of smaller ones: no memory is
// that large.
const Unlimited = int64(1)<<48 - 1

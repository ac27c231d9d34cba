package refusal

// Failure counts the calls that failed with one errno. First is the number of the first
// one among all events, from 1.
type Failure struct {
	Errno        int32 // 0: several, which have no place of their own
	Calls, First uint64
}

// Failures are all calls that failed, by errno in the order of the first ones.
type Failures [6]Failure

// Add counts a call that failed, by the number of its event.
func (f *Failures) Add(errno int32, event uint64) {
	last := len(f) - 1
	i := 0
	for i < last && f[i].Calls > 0 && f[i].Errno != errno {
		i++
	}
	one := &f[i]
	switch {
	case one.Calls == 0:
		one.Errno, one.First = errno, event
	case one.Errno != errno:
		one.Errno = 0
	}
	one.Calls++
}

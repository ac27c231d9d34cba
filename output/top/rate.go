package top

// rate is how often something happens, from a counter that is read now and
// then.
type rate struct {
	count     uint64
	atNS      uint64 // of the last reading; 0: none yet
	perSecond float64
}

// next is the rate after one more reading. Without time in between there is no
// new rate, and a counter or a clock that went back starts anew.
func (r rate) next(count, nowNS uint64) rate {
	switch {
	case r.atNS == 0 || nowNS < r.atNS || count < r.count:
		return rate{count: count, atNS: nowNS}
	case nowNS == r.atNS:
		return r
	}
	seconds := float64(nowNS-r.atNS) / 1e9
	return rate{count: count, atNS: nowNS, perSecond: float64(count-r.count) / seconds}
}

package tracer

// Watched says what a trace watches besides perf buffers, after what this kernel
// or this user does not allow was left out.
func (t *Tracer) Watched() (objects, others bool) { return t.bpf != nil, t.others != nil }

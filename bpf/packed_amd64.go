package bpf

import "embed"

// arch is the architecture's name in bpf2go's file names.
const arch = "x86"

//go:embed packed/*_x86_bpfel.o.zst
var packed embed.FS

package bpf

import "embed"

// arch is the architecture's name in bpf2go's file names.
const arch = "arm64"

//go:embed packed/*_arm64_bpfel.o.zst
var packed embed.FS

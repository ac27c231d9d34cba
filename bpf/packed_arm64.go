package bpf

import "embed"

//go:embed packed/*_arm64_bpfel.o.zst
var packed embed.FS

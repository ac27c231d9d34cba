package bpf

import "embed"

//go:embed packed/*_x86_bpfel.o.zst
var packed embed.FS

package main

// The BPF programs and their Go bindings. The output is committed, so building
// needs no clang: `make generate` makes it anew, with the compiler and the flags
// that the Makefile names, and `make test` fails when it differs.
//
// Each source that sends records is compiled twice: for today's kernels, and as
// its Legacy flavour for kernels from 4.19 on (see bpf/transport.h).

//go:generate -command compile go tool bpf2go -target amd64,arm64 -output-dir bpf -go-package bpf
//go:generate compile -type header -type event -type record -type op -type area -type flag -type losses Perf bpf/perf.bpf.c
//go:generate compile -type object_event -type object_op -type object_kind -type object_flag Objects bpf/objects.bpf.c
//go:generate compile -type charge_event -type charge_flag -type charger Chargers bpf/chargers.bpf.c
//go:generate compile -type process -type process_flag -type buffer -type buffer_flag Snapshot bpf/snapshot.bpf.c
//go:generate compile -no-global-types -output-stem perf_legacy PerfLegacy bpf/perf.bpf.c -- -DPINWATCH_LEGACY
//go:generate compile -no-global-types -output-stem objects_legacy ObjectsLegacy bpf/objects.bpf.c -- -DPINWATCH_LEGACY
//go:generate compile -no-global-types -output-stem chargers_legacy ChargersLegacy bpf/chargers.bpf.c -- -DPINWATCH_LEGACY

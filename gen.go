package main

// The BPF programs and their Go bindings. The output is committed, so building
// needs no clang: `make generate` makes it anew, with the compiler and the flags
// that the Makefile names, and `make test` fails when it differs.
//
// Each source that sends records is compiled twice: for today's kernels, and as
// its Legacy flavour for kernels from 4.19 on (see bpf/record.h).

//go:generate -command compile go tool bpf2go -target amd64,arm64 -output-dir bpf -go-package bpf -no-global-types
//go:generate compile -type config -type losses -type header -type caller -type reading -type record -type record_kind -type record_flag -type op -type area -type facts -type fact Perf bpf/perf.bpf.c
//go:generate compile -type reading -type record -type op -type kind Objects bpf/objects.bpf.c
//go:generate compile -type reading -type record -type charger -type function -type accounting Chargers bpf/chargers.bpf.c
//go:generate compile -type process -type process_flag -type buffer -type buffer_flag Snapshot bpf/snapshot.bpf.c
//go:generate compile -type question -type answer Payers bpf/payers.bpf.c
//go:generate compile -output-stem perf_legacy PerfLegacy bpf/perf.bpf.c -- -DPINWATCH_LEGACY
//go:generate compile -output-stem objects_legacy ObjectsLegacy bpf/objects.bpf.c -- -DPINWATCH_LEGACY
//go:generate compile -output-stem chargers_legacy ChargersLegacy bpf/chargers.bpf.c -- -DPINWATCH_LEGACY

// The copies of the large ones that the binary embeds.
//go:generate sh -c "go run ./bpf/testdata/pack bpf/perf_*.o bpf/objects_*.o bpf/chargers_*.o"

// The structures of old kernels, which tests load the Legacy flavours against.
//go:generate sh bpf/testdata/layouts.sh

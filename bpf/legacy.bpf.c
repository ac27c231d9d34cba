//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * The programs of perf.bpf.c for kernels from 4.19 on: with the perf event array
 * in place of the ring buffer, and with nothing else that 4.19 lacks.
 */
#define PINWATCH_LEGACY
#include "perf.bpf.c"

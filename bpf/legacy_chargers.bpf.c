//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * The programs of chargers.bpf.c for kernels from 4.19 on: with the perf event
 * array in place of the ring buffer.
 */
#define PINWATCH_LEGACY
#include "chargers.bpf.c"

//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * The programs of objects.bpf.c for kernels from 4.19 on: with the perf event
 * array in place of the ring buffer. Those on the charge paths of memory cgroups
 * are for 5.11 and later, whatever the transport.
 */
#define PINWATCH_LEGACY
#include "objects.bpf.c"

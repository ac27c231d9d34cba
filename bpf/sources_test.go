package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// kernelDifference is what only kernel.h may have: flavours of structures, declarations
// of the kernel's, questions for what a kernel has, and the fields that are other ones in
// other versions.
var kernelDifference = regexp.MustCompile(strings.Join([]string{
	`\w___\w`,
	`preserve_access_index`,
	`__ksym`,
	`\bbpf_core_(field|type|enum)_\w+`,
	`0x09041934`, // ANON_INODE_FS_MAGIC
	`\b(__count|cap_effective|perf_mlock)\b`,
	`(->|_READ\(.*|kernel_read\(.*)\b(locked_vm|pinned_vm)\b`,
	`\b(locked_vm|pinned_vm|mmap_count)\.(counter|refs)\b`,
}, "|"))

var comment = regexp.MustCompile(`(?s)/\*.*?\*/`)

// differences are the lines of C source with what belongs into kernel.h.
func differences(source string) (lines []string) {
	code := comment.ReplaceAllStringFunc(source, func(c string) string { return strings.Repeat("\n", strings.Count(c, "\n")) })
	for i, line := range strings.Split(code, "\n") {
		if hit := kernelDifference.FindString(line); hit != "" {
			lines = append(lines, fmt.Sprintf("%d: %s (%s)", i+1, strings.TrimSpace(line), hit))
		}
	}
	return lines
}

// Whoever a new kernel breaks something for has one file to look at.
func TestKernelDifferencesAreInOneFile(t *testing.T) {
	var sources []string
	for _, pattern := range []string{"*.c", "*.h"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, found...)
	}
	if len(sources) < 8 {
		t.Fatalf("%q are all sources there are", sources)
	}
	for _, name := range sources {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := differences(string(raw))
		if name == "kernel.h" {
			if len(lines) < 50 {
				t.Errorf("%s: only %d lines were taken for kernel differences", name, len(lines))
			}
			continue
		}
		for _, line := range lines {
			t.Errorf("%s:%s: belongs into kernel.h", name, line)
		}
	}
}

func TestDifferences(t *testing.T) {
	for _, bad := range []string{
		`	user_now = BPF_CORE_READ(user, locked_vm.counter);`,
		`	if (BPF_CORE_READ(user, __count.refs.counter) <= 0)`,
		`	b = kernel_read(mm, pinned_vm);`,
		`	b = user->locked_vm;`,
		`struct file___known {`,
		`	if (bpf_core_field_exists(map->objcg))`,
		`	return work - bpf_core_field_offset(struct xdp_umem, work);`,
		`#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)`,
		`extern void nr_cpu_ids __ksym __weak;`,
		`#define ANON_INODE_FS_MAGIC 0x09041934`,
	} {
		if len(differences("/* one\n line */\n"+bad)) != 1 {
			t.Errorf("nothing was found in %s", bad)
		}
	}
	const good = `
	/* user_struct.locked_vm; pinned_vm.counter, struct file___known */
	p.locked_vm = user_locked_vm(user);
	p.pinned_vm = mm_pinned(mm);
	r->mappings = rb_count(rb, mmap_count);
	r->header.flags |= FLAG_COMMAND;`
	if lines := differences(good); lines != nil {
		t.Errorf("found %q", lines)
	}
}

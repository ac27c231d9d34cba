package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/reproducer"
)

func mail(t *testing.T, scenario string, r *check.Report) string {
	t.Helper()
	chosen, err := check.Choose([]string{scenario})
	if err != nil {
		t.Fatal(err)
	}
	s, err := reproducer.Of(&chosen[0])
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteMail(&b, s, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A report for a mailing list says what was seen where, since when, and brings the C file.
func TestMail(t *testing.T) {
	text := mail(t, "map-twice", aReport())
	at := 0
	for _, part := range []string{
		"Subject: perf mmap accounting: double-charge (map-twice)\n",
		"\nKernels\n\n  6.12.107: right\n  6.16.12: double-charge\n  7.3.4: double-charge\n  7.4.0-rc1: could not be checked: guest kernel panicked",
		"\nExpected\n\n  perf_mmap() charges",
		"\nCalls\n\n  mapper maps 9 pages\n  mapper maps 9 pages\n",
		"\nSeen\n\n  6.16.12, 7.3.4:\n    pages of the allowance that fit before EPERM: expected 507 pages, seen 498, after: mapper maps 9 pages\n    tracer: double-charge of 9 pages",
		"\nWho is hurt\n\n  all processes of the user\n",
		"\nSince when\n\n  Here: pass on 6.12.107, double-charge from 6.16.12 to 7.3.4.\n",
		"  Known as double-charge-of-further-mappings: shown on Linux 6.16,",
		"\nmap-twice.c, which does it without pinwatch\n\n// SPDX-License-Identifier: GPL-2.0\n",
	} {
		i := strings.Index(text[at:], part)
		if i < 0 {
			t.Fatalf("no %q from byte %d on, in\n%s", part, at, text[:min(len(text), 4000)])
		}
		at += i
	}
	if strings.ContainsRune(text, '\x1b') {
		t.Error("what a kernel printed reaches the terminal")
	}
}

// Where nothing fails nothing is said to be seen, or to hurt.
func TestMailOfPass(t *testing.T) {
	text, _, _ := strings.Cut(mail(t, "map-once", aReport()), "// SPDX")
	if !strings.Contains(text, "locked memory is accounted right (map-once)") || strings.Contains(text, "Seen") || strings.Contains(text, "Since when") {
		t.Error(text)
	}
	// A skip is neither.
	text = mail(t, "cpu-offline", &check.Report{Kernels: aReport().Kernels[:1]})
	if !strings.Contains(text, "not known, nothing ran (cpu-offline)") || !strings.Contains(text, "6.12.107: skipped: requires a second CPU") {
		t.Error(text)
	}
}

package report

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// What is used of KCIDB's schema, version 5.3. Nothing in it may be null; what is not known
// is left out: pinwatch sees a kernel, and not from which commit it was built, or how.
type kcidbReport struct {
	Version   kcidbVersion    `json:"version"`
	Checkouts []kcidbCheckout `json:"checkouts"`
	Builds    []kcidbBuild    `json:"builds"`
	Tests     []kcidbTest     `json:"tests"`
}

type kcidbVersion struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
}

type kcidbCheckout struct {
	ID     string `json:"id"`
	Origin string `json:"origin"`
}

type kcidbBuild struct {
	ID           string            `json:"id"`
	Origin       string            `json:"origin"`
	CheckoutID   string            `json:"checkout_id"`
	Architecture string            `json:"architecture"`
	Misc         map[string]string `json:"misc"`
}

type kcidbTest struct {
	ID         string    `json:"id"`
	Origin     string    `json:"origin"`
	BuildID    string    `json:"build_id"`
	Path       string    `json:"path"`
	Status     string    `json:"status"`
	Duration   float64   `json:"duration"` // seconds
	Comment    string    `json:"comment,omitempty"`
	LogExcerpt string    `json:"log_excerpt,omitempty"`
	Misc       kcidbMisc `json:"misc"`
}

type kcidbMisc struct {
	Verdicts []string `json:"verdicts"`
	Known    string   `json:"known"`
}

const (
	kcidbOrigin  = "pinwatch"
	kcidbLongest = 16384 // characters of an excerpt
)

// kcidb writes what the database of kernel CI takes: for each kernel a build, and for each
// scenario a test. Every run has identifiers of its own, made of what it found and how
// long that took: kernels of one release can be different builds.
func kcidb(w io.Writer, r *check.Report) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	run := kcidbOrigin + ":" + hex.EncodeToString(sum[:16])
	all := kcidbReport{Version: kcidbVersion{5, 3}, Checkouts: []kcidbCheckout{}, Builds: []kcidbBuild{}, Tests: []kcidbTest{}}
	for i := range r.Kernels {
		k := &r.Kernels[i]
		id := fmt.Sprintf("%s:%d", run, i)
		all.Checkouts = append(all.Checkouts, kcidbCheckout{id, kcidbOrigin})
		all.Builds = append(all.Builds, kcidbBuild{id, kcidbOrigin, id, kcidbArch(k.Arch), map[string]string{"release": printableLines(k.Release)}})
		for j := range k.Scenarios {
			all.Tests = append(all.Tests, kcidbTestOf(&k.Scenarios[j], id))
		}
		if k.Error != "" {
			all.Tests = append(all.Tests, kcidbTest{ID: id + ":kernel", Origin: kcidbOrigin, BuildID: id, Path: kcidbOrigin, Status: "ERROR",
				LogExcerpt: kcidbExcerpt(k.Error), Misc: kcidbMisc{Verdicts: []string{}}})
		}
	}
	return encode(w, all)
}

// kcidbTestOf is a scenario. One that is known to fail fails: the database has issues of its
// own for that.
func kcidbTestOf(sc *check.Scenario, build string) kcidbTest {
	t := kcidbTest{ID: build + ":" + sc.Name, Origin: kcidbOrigin, BuildID: build, Path: kcidbOrigin + "." + sc.Name,
		Status: "PASS", Duration: float64(sc.DurationMS) / 1000, Comment: kcidbExcerpt(sc.Reason), Misc: kcidbMisc{sc.Verdicts, sc.Known}}
	switch {
	case sc.Result == check.Fail:
		t.Status, t.LogExcerpt = "FAIL", kcidbExcerpt(evidence(sc))
	case sc.CouldNotRun:
		t.Status = "ERROR"
	case sc.Result == check.Skip:
		t.Status = "SKIP"
	}
	return t
}

// kcidbExcerpt is a text as long as it may be, of characters that may be in it.
func kcidbExcerpt(text string) string {
	text = printableLines(text)
	return text[:min(len(text), kcidbLongest)]
}

// kcidbArch is an architecture as the kernel has it, of the characters that may be in it.
func kcidbArch(arch string) string {
	if arch == "amd64" {
		return "x86_64"
	}
	return strings.ToLower(arch)
}

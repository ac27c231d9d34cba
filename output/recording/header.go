package recording

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Header is the first line of a recording's file: by what and of which machine it is. Lines of
// trace --json, and older recordings, have none.
type Header struct {
	Version   int    `json:"v"`
	Kind      string `json:"kind"` // headerKind
	TimeNS    int64  `json:"time_ns"`
	Clock     string `json:"clock"` // that all times of the recording are of
	Pinwatch  string `json:"pinwatch"`
	Release   string `json:"kernel"`
	Arch      string `json:"arch"`
	BootID    string `json:"boot_id"` // "": not known
	Host      string `json:"host"`    // "": not to be told
	MlockKiB  int    `json:"perf_event_mlock_kib"`
	Paranoid  int    `json:"perf_event_paranoid"`
	CPUs      int    `json:"online_cpus"`
	PageBytes uint32 `json:"page_size_bytes"`
	// Of one of several files that are one trace: which trace, and from 0 its place in it.
	Run  string `json:"run"` // "": it is the only one
	Part int    `json:"part"`
	// Events before it: lost in the whole trace, and not written since the file before it.
	Lost       uint64 `json:"lost_before"`
	Unrecorded uint64 `json:"unrecorded_before"`
}

const headerKind = "header"

// NewHeader describes this machine, now. An anonymous one leaves out its name.
func NewHeader(pinwatch string, anonymous bool) (*Header, error) {
	settings, err := kernel.ReadSettings()
	if err != nil {
		return nil, err
	}
	h := &Header{Version: newest, Kind: headerKind, TimeNS: time.Now().UnixNano(), Clock: "CLOCK_MONOTONIC, as Unix time of the start", Pinwatch: pinwatch,
		Release: kernel.Release(), BootID: kernel.BootID(), Arch: runtime.GOARCH, MlockKiB: settings.MlockKiB, Paranoid: settings.Paranoid,
		CPUs: settings.OnlineCPUs, PageBytes: settings.PageSize}
	if !anonymous {
		if h.Host, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Write writes the header's line.
func (h *Header) Write(w io.Writer) error { return format.WriteJSONLine(w, h) }

// String says it in a few words.
func (h *Header) String() string {
	where := ""
	if h.Host != "" {
		where = " on " + format.Printable(h.Host)
	}
	return fmt.Sprintf("recorded by pinwatch %s%s: Linux %s (%s), from %s", format.Printable(h.Pinwatch), where,
		format.Printable(h.Release), format.Printable(h.Arch), time.Unix(0, h.TimeNS).UTC().Format("2006-01-02 15:04:05 UTC"))
}

// parseHeader returns nil where the line is none.
func parseHeader(line []byte) *Header {
	if !bytes.Contains(line, []byte(`"`+headerKind+`"`)) {
		return nil
	}
	var h Header
	if err := json.Unmarshal(line, &h); err != nil || h.Kind != headerKind || h.Version < version1 || h.Version > newest {
		return nil // it is said to be no event, or of another version
	}
	return &h
}

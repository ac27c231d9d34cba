package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// added is what a tracer adds to a call, in instructions.
func (s samples) added(of string) float64 {
	return s.median(figureCall, of) - s.median(figureCall, "none")
}

// ratios are what is compared with the baseline: the same on any machine, and the
// lower the better.
func (s samples) ratios() map[string]float64 {
	ratios := map[string]float64{}
	for _, c := range contestants() {
		if c.name == bpftrace {
			continue
		}
		ratios["call: added by "+c.name+" / bare"] = s.added(c.name) / s.median(figureCall, "none")
		ratios["start: "+c.name+" / bpftrace"] = s.median(figureStart, c.name) / s.median(figureStart, bpftrace)
		ratios["stop: "+c.name+" / bpftrace"] = s.median(figureStop, c.name) / s.median(figureStop, bpftrace)
		ratios["memory: "+c.name+" / bpftrace"] = s.median(figureMemory, c.name) / s.median(figureMemory, bpftrace)
	}
	for _, load := range agentLoads() {
		if load.events > 0 { // idle it does nothing but now and then
			ratios["agent: a second, "+load.name+" / bare"] = s.median(figureAgent, load.name) / s.median(figureCall, "none")
		}
		ratios["agent: memory, "+load.name+" / bpftrace"] = s.median(figureAgentRSS, load.name) / s.median(figureMemory, bpftrace)
	}
	for _, live := range heapLives() {
		ratios["memory: heap with "+live+" buffers, after 10 M events / after 1 M"] = s.median(figureHeap, heap(live)+" after all") / s.median(figureHeap, heap(live)+" after a tenth")
	}
	for _, path := range []string{"ledger", "json", "table"} {
		for _, live := range lives() {
			name := path + "/live=" + live
			ratios["event: "+name+" / yardstick"] = s.median(figureEvent, name) / s.median(figureEvent, "Yardstick")
		}
	}
	return ratios
}

func heapLives() []string { return []string{"1000", "100000"} }

func lives() []string { return []string{"1", "1000", "100000"} }

// tolerance is how much worse than the baseline a ratio may be. A stop waits for grace periods
// of the kernel's, which end when they like.
const tolerance, toleranceOfStop = 1.2, 2.0

func toleranceOf(ratio string) float64 {
	if strings.HasPrefix(ratio, "stop: ") {
		return toleranceOfStop
	}
	return tolerance
}

func (s samples) write(path string) error {
	text, err := json.MarshalIndent(s.ratios(), "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// compare fails where a ratio is too far above the baseline, or where the baseline
// and what was measured are not about the same things.
func (s samples) compare(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var baseline map[string]float64
	if err := json.Unmarshal(raw, &baseline); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	worse := worseThan(baseline, s.ratios())
	if len(worse) > 0 {
		return errors.New("worse than the baseline:\n  " + strings.Join(worse, "\n  "))
	}
	fmt.Printf("no ratio is more than %.0f %% above the baseline, and none of a stop more than %.0f %%\n", 100*(tolerance-1), 100*(toleranceOfStop-1))
	return nil
}

func worseThan(baseline, now map[string]float64) (worse []string) {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		before, known := baseline[name]
		// What is not a number compares as false, so this asks for what is fine.
		if fine := known && now[name] <= before*toleranceOf(name); !fine {
			worse = append(worse, fmt.Sprintf("%s: %.3f, the baseline has %.3f", name, now[name], before))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(baseline)) {
		if _, measured := now[name]; !measured {
			worse = append(worse, name+": not measured")
		}
	}
	return worse
}

// table is all of it in Markdown.
func (s samples) table() string {
	var b strings.Builder
	b.WriteString("| traced by | a pair costs | added | × floor | × bpftrace | its reader | start | × bpftrace | stop | peak RSS | later |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	fmt.Fprintf(&b, "| nothing | %s | | | | | | | | | |\n", s.instructions(figureCall, "none"))
	for _, by := range floors() {
		floor := "empty " + by
		fmt.Fprintf(&b, "| %s | %s | %.0f | 1.0 | %.2f | | | | | | |\n", floor, s.instructions(figureCall, floor), s.added(floor), s.added(floor)/s.added(bpftrace))
	}
	for _, c := range contestants() {
		floor := c.floor()
		fmt.Fprintf(&b, "| %s | %s | %.0f | %.1f | %.2f | %.0f | %.2f G | %.2f | %.2f G | %.1f MB | %.1f MB |\n", c.name, s.instructions(figureCall, c.name), s.added(c.name),
			s.added(c.name)/s.added(floor), s.added(c.name)/s.added(bpftrace), s.median(figureReader, c.name), s.median(figureStart, c.name)/1e9,
			s.median(figureStart, c.name)/s.median(figureStart, bpftrace), s.median(figureStop, c.name)/1e9, s.median(figureMemory, c.name)*1024/1e6, s.median(figureTracing, c.name)*1024/1e6)
	}
	b.WriteString("\n| events through | buffers | events per CPU second | spread | allocations |\n|---|---:|---:|---:|---:|\n")
	for _, path := range []string{"ledger", "json", "table"} {
		for _, live := range lives() {
			name := path + "/live=" + live
			fmt.Fprintf(&b, "| %s | %s | %.2f M | ±%.0f %% | %.0f |\n", path, live, s.median(figureRate, name)/1e6, s.spread(figureRate, name), s.median(figureAllocs, name))
		}
	}
	b.WriteString("\n")
	for _, live := range heapLives() {
		fmt.Fprintf(&b, "The heap, with %s buffers: %.1f MB after 1 M events, %.1f MB after 10 M.\n",
			live, s.median(figureHeap, heap(live)+" after a tenth")/1e6, s.median(figureHeap, heap(live)+" after all")/1e6)
	}
	b.WriteString("\n| the agent | instructions a second | RSS | bytes on the disk for an event |\n|---|---:|---:|---:|\n")
	for _, load := range agentLoads() {
		name, disk := load.name, ""
		if load.events > 0 {
			name, disk = fmt.Sprintf("%d events a second", load.events), fmt.Sprintf("%.0f", s.median(figureAgentDisk, load.name))
		}
		fmt.Fprintf(&b, "| %s | %.1f M | %.1f MB | %s |\n", name, s.median(figureAgent, load.name)/1e6, s.median(figureAgentRSS, load.name)*1024/1e6, disk)
	}
	if without := s.median(figureBystander, "no probes"); without > 0 {
		with := s.median(figureBystander, "all probes")
		fmt.Fprintf(&b, "\nOther work with all probes of all kinds attached: %+.1f %% instructions (spread ±%.1f %% without, ±%.1f %% with).\n",
			100*(with/without-1), s.spread(figureBystander, "no probes"), s.spread(figureBystander, "all probes"))
	}
	for _, size := range burstSizes() {
		if made := s.median(figureBurst, size.name+": made"); made > 0 {
			fmt.Fprintf(&b, "\nA burst, %s: %.0f calls made, %.0f seen, %.0f lost.\n", size.name, made,
				s.median(figureBurst, size.name+": seen"), s.median(figureBurst, size.name+": lost"))
		}
	}
	return b.String()
}

func (s samples) instructions(figure, of string) string {
	return fmt.Sprintf("%.0f ±%.0f %%", s.median(figure, of), s.spread(figure, of))
}

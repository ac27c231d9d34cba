package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// samples are all values by figure and what was measured.
type samples map[[2]string][]float64

func (s samples) add(figure, of string, value float64) {
	key := [2]string{figure, of}
	s[key] = append(s[key], value)
}

// median is of one thing; 0 where it was not measured.
func (s samples) median(figure, of string) float64 {
	values := slices.Sorted(slices.Values(s[[2]string{figure, of}]))
	if len(values) == 0 {
		return 0
	}
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// spread is how far the values are from their median, in per cent of it.
func (s samples) spread(figure, of string) float64 {
	middle, far := s.median(figure, of), 0.0
	for _, v := range s[[2]string{figure, of}] {
		far = max(far, v/middle-1, 1-v/middle)
	}
	return 100 * far
}

// outside boots the guests, runs the Go benchmarks and makes a table of it all.
func outside(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	kernel := flags.String("kernel", "", "kernel image of the guests")
	results := flags.String("results", "", "write the table to this file too")
	baseline := flags.String("baseline", "testdata/bench/baseline.json", "file of the ratios to compare with")
	update := flags.Bool("update", false, "write the baseline instead of comparing; measure only what is compared, unless there are --results")
	check := flags.Bool("check", false, "fail where a ratio is more than 20 % above the baseline; measure only what is compared")
	kept := flags.String("kept", "", "file with what earlier guests printed: take it from there, and boot none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := samples{}
	if err := s.goBenchmarks(); err != nil {
		return err
	}
	if err := s.guests(*kernel, *kept, *results == "" && (*check || *update)); err != nil {
		return err
	}
	table := s.table()
	fmt.Print(table)
	if *results != "" {
		if err := os.WriteFile(*results, []byte(table), 0o644); err != nil {
			return err
		}
	}
	switch {
	case *update:
		return s.write(*baseline)
	case *check:
		return s.compare(*baseline)
	}
	return nil
}

// guests takes all that is measured in guests, or only what is compared.
func (s samples) guests(kernel, kept string, compared bool) error {
	if kept != "" {
		raw, err := os.ReadFile(kept)
		if err != nil {
			return err
		}
		return s.read(raw)
	}
	for _, part := range []string{"events", "calls", "agent"} {
		if err := s.guest(kernel, part, true); err != nil {
			return err
		}
	}
	if compared {
		return nil
	}
	if err := s.guest(kernel, "bystander", true); err != nil {
		return err
	}
	return s.guest(kernel, "bursts", false)
}

// guest runs a part in a guest, whose time counts instructions if it is to.
func (s samples) guest(kernel, part string, counting bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"guest", "--kernel", kernel, "--memory", "4G", "--timeout", "40m", "--accel", "tcg,thread=single",
		"--file", self + ":bin/bench", "--file", "/bin/busybox:bin/true", "--file", "/bin/busybox:bin/sh", "--file", "testdata/bench/values.bt:values.bt"}
	if counting {
		args = append(args, "--icount", "shift=0,sleep=off", "--cpus", "1")
	}
	switch part {
	case "events":
		benchmarks, err := buildBenchmarks()
		if err != nil {
			return err
		}
		defer os.Remove(benchmarks)
		args = append(args, "--file", benchmarks+":bin/events")
	case "calls":
		files, err := withLibraries("bpftrace")
		if err != nil {
			return err
		}
		args = append(args, files...)
	}
	cmd := exec.Command("./pinwatch", append(args, "--", "workload", "run-as", "--", "bench", "inside", part)...)
	cmd.Stderr = os.Stderr
	fmt.Fprintf(os.Stderr, "bench: %s, in a guest\n", part)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("measure %s in a guest: %w", part, err)
	}
	return s.read(out)
}

// buildBenchmarks builds the Go side's for the guest, whose time counts instructions:
// what a machine that others use too cannot tell.
func buildBenchmarks() (file string, err error) {
	out, err := os.CreateTemp("", "pinwatch-events-")
	if err != nil {
		return "", err
	}
	out.Close()
	cmd := exec.Command("go", "test", "-c", "-o", out.Name(), "./tracer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		os.Remove(out.Name())
		return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, said)
	}
	return out.Name(), nil
}

// read takes samples as a guest prints them.
func (s samples) read(text []byte) error {
	for line := range bytes.Lines(text) {
		var one Sample
		if err := json.Unmarshal(line, &one); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		s.add(one.Figure, one.Of, one.Value)
	}
	return nil
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// withLibraries are the files that a program of the host needs in a guest.
func withLibraries(program string) (files []string, err error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", path, err)
	}
	files = []string{"--file", path + ":bin/" + program}
	for _, found := range library.FindAllSubmatch(out, -1) {
		files = append(files, "--file", string(found[1])+":"+string(found[1]))
	}
	return files, nil
}

// The figures of the Go side.
const (
	figureRate   = "rate"   // events per second of CPU time
	figureAllocs = "allocs" // per event
	figureHeap   = "heap"   // bytes in use, garbage collected
)

// goRounds is how often all are run, in turns.
const goRounds = 9

// heap is what is said of the heap with a number of buffers.
func heap(live string) string { return "Heap/live=" + live }

// heapEvents is how many events the heap is measured over.
const heapEvents = "10000000x"

// goBenchmarks runs them, and reads their output.
func (s samples) goBenchmarks() error {
	fmt.Fprintln(os.Stderr, "bench: the Go side, natively")
	for range goRounds {
		if err := s.goBenchmark("-bench", "Events|Yardstick", "-benchtime", "200ms"); err != nil {
			return err
		}
	}
	if err := s.goBenchmark("-bench", "Heap", "-benchtime", heapEvents); err != nil {
		return err
	}
	if s.median(figureRate, "Yardstick") == 0 || s.median(figureHeap, heap("1000")+" after all") == 0 {
		return errors.New("the Go benchmarks said nothing of the yardstick, or of the heap")
	}
	return nil
}

func (s samples) goBenchmark(args ...string) error {
	cmd := exec.Command("go", append([]string{"test", "./tracer", "-run", "^$", "-cpu", "1"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return metrics(out, func(name, unit string, value float64) {
		switch unit {
		case unitRate:
			s.add(figureRate, name, value)
		case "allocs/op":
			s.add(figureAllocs, name, value)
		case "B-heap-after-a-tenth":
			s.add(figureHeap, name+" after a tenth", value)
		case "B-heap-after-all":
			s.add(figureHeap, name+" after all", value)
		}
	})
}

const unitRate = "events/cpu-s"

// metrics reads what Go benchmarks print.
func metrics(out []byte, each func(name, unit string, value float64)) error {
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(fields[0], "Benchmark"), "Events/")
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("%q: %w", lines.Text(), err)
			}
			each(name, fields[i+1], value)
		}
	}
	return lines.Err()
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The figures of the agent, by its load.
const (
	figureAgent     = "agent"      // instructions in a second
	figureAgentRSS  = "agent-rss"  // resident KiB at its end
	figureAgentDisk = "agent-disk" // bytes that were written, for an event
)

// agentLoad is what a machine does while its agent looks on.
type agentLoad struct {
	name   string
	events int // in a second
	time   time.Duration
}

func agentLoads() []agentLoad {
	return []agentLoad{{"idle", 0, time.Minute}, {"busy", 1000, 20 * time.Second}}
}

// measureAgent runs the agent as its unit does, on a disk that is memory.
func measureAgent() error {
	const dir, said = "/tmp/agent", "/tmp/agent.log"
	log, err := os.Create(said)
	if err != nil {
		return err
	}
	defer log.Close()
	c := &child{out: said}
	c.cmd = exec.Command("pinwatch", "agent", "--dir", dir, "--listen", "127.0.0.1:9435", "--max-size", "256MB", "--max-age", "7d")
	c.cmd.Stderr = log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	for {
		raw, err := os.ReadFile(said)
		if err != nil || c.dead() {
			return errors.Join(fmt.Errorf("the agent ended: %s", raw), err, c.cmd.Wait())
		}
		if strings.Contains(string(raw), "system calls are confined") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(5 * time.Second) // what the start leaves to the collector of garbage
	for _, load := range agentLoads() {
		if err := load.measure(c, dir); err != nil {
			return err
		}
	}
	c.cmd.Process.Signal(unix.SIGTERM)
	if err := c.cmd.Wait(); err != nil {
		raw, _ := os.ReadFile(said)
		return fmt.Errorf("%w: %s", err, raw)
	}
	return nil
}

func (l agentLoad) measure(c *child, dir string) error {
	const tick = 100 * time.Millisecond
	disk, err := sizeOf(dir)
	if err != nil {
		return err
	}
	cpu, began, pairsMade := c.cpu(), time.Now(), 0
	for ticks := range int(l.time / tick) {
		for ; pairsMade*2 < l.events*(ticks+1)/10; pairsMade++ {
			if err := pair(); err != nil {
				return err
			}
		}
		time.Sleep(time.Until(began.Add(time.Duration(ticks+1) * tick)))
	}
	took := time.Since(began)
	cpu = c.cpu() - cpu
	rss, err := c.status("VmRSS")
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // it writes once a second
	after, err := sizeOf(dir)
	if err != nil {
		return err
	}
	say(figureAgent, l.name, float64(cpu)/took.Seconds())
	if l.events > 0 {
		say(figureAgentDisk, l.name, float64(after-disk)/float64(2*pairsMade))
	}
	return say(figureAgentRSS, l.name, float64(rss))
}

// sizeOf is how many bytes the files of a directory have.
func sizeOf(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// Pinwatch shows how Linux charges locked memory, tells who is refused and why, and
// whether this kernel accounts for it correctly.
package main

import (
	"context"
	"os"
	"os/signal"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/command"
	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/guest"
)

func main() {
	if guest.IsInit() {
		guest.Init()
	}
	child.Init(command.Children()...)
	// Go sets GOMAXPROCS from the cgroup by itself, but no memory limit.
	memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	status := command.Main(ctx, os.Args[1:], command.Standard())
	stop()
	os.Exit(status)
}

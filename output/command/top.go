package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/output/top/terminal"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// topOptions are those of top.
type topOptions struct {
	*Streams
	tracing tracing.Flags
	view    top.Options
	views   []string // what to show first, and in a batch all of
	replay  string   // a recording or a directory of them, "-": the standard input; "": the running kernel
	span    value.Span
	batch   bool
	config  string // file of settings; "": the user's, where there is one
	save    bool
	count   int // screens of a batch; 0: see Batch
}

func newTop(s *Streams) *cobra.Command {
	o := topOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "top [flags]",
		Short: "Watch who holds locked memory, and who is refused",
		Long: `Shows who holds locked memory, now and as it changes: processes, users, cgroups,
BPF objects and live events. What existed before pinwatch started is included.
With --replay it shows a recording, or what "pinwatch agent --dir" wrote, without
privileges, anywhere. If the standard output is not a terminal, it writes plain tables
(--batch).

Keys:
` + indent(top.Keys) + `

Tracing needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. Without them top shows
what /proc tells, and says so.`,
		Example: `  pinwatch top
  pinwatch top -b -n 3 -d 5s --view processes,users
  pinwatch record trace.jsonl; pinwatch top --replay trace.jsonl --speed 0.5
  pinwatch top --replay /var/lib/pinwatch --from 02:50 --paused`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.settings(cmd.Flags()); err != nil {
				return usageError{err}
			}
			return runTop(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.replay, "replay", "", "show this `recording` of record or trace --json, or directory of the agent; - for the standard input")
	o.span.Add(f, "with --replay, begin there", "with --replay, end there")
	f.Float64Var(&o.view.Speed, "speed", 1, "replay speed: 1 as recorded, 2 twice as fast; 0: as fast as possible")
	f.BoolVar(&o.view.Paused, "paused", false, "start the replay paused; n steps")
	f.BoolVarP(&o.batch, "batch", "b", false, "write plain tables, even to a terminal")
	f.IntVarP(&o.count, "count", "n", 0, "number of screens of a batch; 0: until stopped, or the last one of a recording")
	f.DurationVarP(&o.view.Interval, "interval", "d", 2*time.Second, "time between two refreshes; of a recording, in its own time")
	value.EnumsFunc(f, &o.views, "view", []string{"processes"}, top.ViewNames(), "what to show first, and in a batch all of: "+strings.Join(top.ViewNames(), ", "), checkView)
	f.StringVar(&o.view.Sort, "sort", "", "`column` to sort by")
	f.StringVar(&o.view.Filter, "filter", "", "only rows with this `text` in a name, a pid, a uid or a verdict")
	f.BoolVar(&o.view.All, "all", false, "include idle processes and users")
	f.BoolVar(&o.view.ASCII, "ascii", terminal.ASCII(), "draw with ASCII characters; the default follows LC_ALL, LC_CTYPE and LANG")
	f.BoolVar(&o.view.Tree, "tree", false, "cgroups as a tree")
	f.BoolVar(&o.view.Mouse, "mouse", false, "begin with the mouse switched on (m); Shift then selects text")
	f.BoolVar(&o.view.Bytes, "in-bytes", false, "amounts in bytes, not pages")
	f.StringVar(&o.config, "config", "", "`file` of settings, to begin with and for W; by default the user's, which is not for --batch")
	f.BoolVar(&o.save, "save", false, "keep view, sort, interval and the like for the next time, as W does")
	o.tracing.AddBackend(f)
	o.tracing.AddBuffer(f)
	value.Renamed(f, "bytes", "in-bytes")
	cmd.RegisterFlagCompletionFunc("sort", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return top.ColumnNames(o.views[0]), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// checkView accepts the name of a view.
func checkView(name string) error {
	_, err := top.New(top.Options{View: name})
	return err
}

func runTop(ctx context.Context, o *topOptions) error {
	if err := o.check(); err != nil {
		return usageError{fmt.Errorf("%w (see pinwatch top --help)", err)}
	}
	if o.save {
		m, _ := top.New(o.view)
		if _, err := o.keep(m.Settings()); err != nil {
			return err
		}
	}
	if o.replay != "" {
		return topReplay(ctx, o)
	}
	return topLive(ctx, o)
}

// settings applies what was kept, where the command line says nothing.
func (o *topOptions) settings(f *pflag.FlagSet) error {
	asked := o.config != ""
	if !asked {
		o.config = terminal.DefaultConfig()
	}
	if o.config == "" || !asked && o.plain() {
		return nil
	}
	err := terminal.ApplySettings(o.config, f, top.SettingNames())
	if errors.Is(err, fs.ErrNotExist) && (!asked || o.save) {
		return nil // nothing was kept yet
	}
	return err
}

// keep keeps settings for the next time.
func (o *topOptions) keep(settings string) (string, error) {
	if o.config == "" {
		return "", errors.New("there is no place for them: set HOME or XDG_CONFIG_HOME, or use --config")
	}
	return o.config, terminal.SaveSettings(o.config, settings)
}

// check finds wrong usage before anything is opened.
func (o *topOptions) check() error {
	switch {
	case o.view.Interval < 10*time.Millisecond:
		return fmt.Errorf("--interval %s: want at least 10ms", o.view.Interval)
	case o.replay == "" && (o.view.Paused || o.span != value.Span{}):
		return errors.New("--paused, --from and --to go with --replay")
	case o.view.Speed < 0 || o.count < 0:
		return errors.New("--speed and --count cannot be negative")
	}
	o.view.View = o.views[0]
	_, err := top.New(o.view)
	return err
}

func topReplay(ctx context.Context, o *topOptions) error {
	recorded, err := recording.Open(o.replay, o.In, o.span.From, o.span.To)
	if err != nil {
		return err
	}
	defer recorded.Close()
	o.view.Replay, o.view.Title = true, filepath.Base(o.replay)
	source := &terminal.Replay{Recorded: recorded, FromNS: o.span.FromNS(), Speed: o.view.Speed, Paused: o.view.Paused, Interval: o.view.Interval}
	if o.plain() {
		source.Speed, source.Paused, o.view.Paused = 0, false, false
	}
	if err := o.show(ctx, source); err != nil {
		return fmt.Errorf("replay %s: %w", o.replay, err)
	}
	recorded.Tell(o.Err)
	return nil
}

func topLive(ctx context.Context, o *topOptions) error {
	source := &terminal.Live{Interval: o.view.Interval, Objects: terminal.Objects(bpfobj.ListHeld),
		Container: cgroup.HostNames().Called}
	from := tracing.SnapshotFrom(ctx, "", o.tracing.BTF)
	s, err := session.Open(ctx, session.Options{Tracer: o.tracing.Options(), Snapshot: from})
	if err == nil {
		defer s.Close()
		source.Trace, source.Snapshot = s, s.State.Take
		o.view.Attach = s.Attach() + ", " + s.Transport()
	} else {
		source.Untraced = err
		state, err := snapshot.Open(from)
		if err != nil {
			return err
		}
		defer state.Close()
		source.Snapshot = state.Take
	}
	o.view.Title = "Linux " + kernel.Release()
	return o.show(ctx, source)
}

// plain reports whether plain tables are written.
func (o *topOptions) plain() bool { return o.batch || o.Terminal() == nil }

// show shows a source on the terminal, or as plain tables.
func (o *topOptions) show(ctx context.Context, source terminal.Source) error {
	if o.plain() {
		return terminal.Batch(ctx, o.view, source, o.views, o.count, o.Out)
	}
	return terminal.Run(ctx, o.view, source, o.Terminal(), o.keep)
}

package value

import (
	"slices"
	"testing"

	"github.com/spf13/pflag"
)

// Flags that were given are arguments that give the same again: each value of one that may be
// given several times, and none of those that were not, or do not matter.
func TestGiven(t *testing.T) {
	flags := func() *pflag.FlagSet {
		f := pflag.NewFlagSet("check", pflag.ContinueOnError)
		f.StringArray("module", nil, "")
		f.String("append", "", "")
		f.String("kernel", "", "")
		f.Int("cpus", 4, "")
		f.Bool("invasive", false, "")
		f.Bool("refresh", false, "")
		return f
	}
	for _, c := range []struct{ given, want []string }{
		{[]string{"--cpus", "2", "--kernel", "bzImage", "--module", "a.ko", "--append", "quiet x=1", "--module", "dir, or two/b.ko", "--invasive", "--refresh=false"},
			[]string{"--append", "quiet x=1", "--cpus", "2", "--invasive", "--module", "a.ko", "--module", "dir, or two/b.ko"}},
		{nil, nil},
	} {
		f := flags()
		if err := f.Parse(c.given); err != nil {
			t.Fatal(err)
		}
		got := Given(f, "kernel")
		if !slices.Equal(got, c.want) {
			t.Errorf("%q; want %q", got, c.want)
		}
		again := flags()
		if err := again.Parse(got); err != nil || !slices.Equal(Given(again), got) {
			t.Errorf("%q: %v, then %q", got, err, Given(again))
		}
	}
}

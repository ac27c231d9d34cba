// Package findings is what stock kernels are known to get wrong.
package findings

import (
	_ "embed"
	"encoding/json"
)

// What a scenario shows, and what takes calls at the same time, which pinwatch check
// --explore came to.
var (
	//go:embed findings.json
	shown string
	//go:embed explored.json
	explored string
	//go:embed fixed.json
	fixed string
)

// Fix is a bug of the past, by the commit that ended it, and what provokes it.
type Fix struct {
	Commits   []string `json:"commits"`
	Says      string   `json:"says"`
	Scenarios []string `json:"scenarios"`
}

// Fixed are the bugs of the past.
func Fixed() (all []Fix) {
	if err := json.Unmarshal([]byte(fixed), &all); err != nil {
		panic(err) // of this package alone
	}
	return all
}

// Finding is one of them.
type Finding struct {
	Name      string   `json:"name"`
	Verdict   string   `json:"verdict"`
	Says      string   `json:"says"`      // what goes wrong
	Where     string   `json:"where"`     // the kernel's function, where that is known
	Series    []string `json:"series"`    // that show it
	Scenarios []string `json:"scenarios"` // that fail because of it, NAME@SERIES+SERIES on some series only
	// Witnesses are the verdicts of the witnesses alone in those scenarios, of which each
	// has some.
	Witnesses []string `json:"witnesses"`
	// Forms are what programs do with buffers that come to it, of those that pinwatch
	// check --explore shrinks.
	Forms []string `json:"forms"`
	// Log is in the kernel's messages where it crashes.
	Log string `json:"log"`
}

// Stock are all of them.
func Stock() (all []Finding) {
	for _, list := range []string{shown, explored} {
		var some []Finding
		if err := json.Unmarshal([]byte(list), &some); err != nil {
			panic(err) // of this package alone
		}
		all = append(all, some...)
	}
	return all
}

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
)

// Finding is one of them.
type Finding struct {
	Name      string   `json:"name"`
	Verdict   string   `json:"verdict"`
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

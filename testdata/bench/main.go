// Bench measures pinwatch against what people would use instead, and writes one
// table. "make bench" and "make bench-check" run it; "bench inside" is the part that
// runs in a guest.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	var err error
	if len(os.Args) > 2 && os.Args[1] == "inside" {
		err = inside(os.Args[2], strings.Join(os.Args[3:], " "))
	} else {
		err = outside(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

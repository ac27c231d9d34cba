package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed" // the parts of the page
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
)

// The parts of the page. uPlot is as its authors published it: uplot/README.md.
var (
	//go:embed page.html
	frame string
	//go:embed page.css
	style string
	//go:embed page.js
	program string
	//go:embed check.html
	checkFrame string
	//go:embed check.js
	checkProgram string
	//go:embed uplot/uPlot.iife.min.js.gz
	uplotPacked []byte // half of it, in a program that is to stay small
	//go:embed uplot/uPlot.min.css
	uplotStyle string
	//go:embed uplot/LICENSE
	uplotLicense string
)

// write writes the page of some data. The data is JSON in which no character means anything
// to HTML; the page shows it as text alone, and lets nothing run but the programs here.
func write(out io.Writer, frame, program string, data any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(true)
	if err := e.Encode(data); err != nil {
		return err
	}
	uplotProgram, err := uplot()
	if err != nil {
		return err
	}
	_, err = strings.NewReplacer(
		"{{uplot hash}}", hashOf(uplotProgram), "{{program hash}}", hashOf(program),
		"{{uplot license}}", uplotLicense, "{{uplot style}}", uplotStyle, "{{style}}", style,
		"{{uplot}}", uplotProgram, "{{program}}", program, "{{data}}", strings.TrimSpace(string(format.EscapeJSON(b.Bytes()))),
	).WriteString(out, frame)
	return err
}

// uplot is the library's program.
func uplot() (string, error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(uplotPacked))
	if err != nil {
		return "", err
	}
	program, err := io.ReadAll(unpacked)
	return string(program), err
}

// hashOf is what a policy names a script by.
func hashOf(script string) string {
	sum := sha256.Sum256([]byte(script))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

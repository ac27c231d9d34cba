package format

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/hostile"
)

// Nothing of a text reaches a terminal but what it prints, and no text makes a line.
func TestHostile(t *testing.T) {
	for name, text := range hostile.Texts() {
		printed := Printable(text)
		if err := hostile.Terminal(printed); err != nil {
			t.Errorf("%s: Printable: %v", name, err)
		}
		if strings.Contains(printed, "\n") {
			t.Errorf("%s: Printable makes lines: %q", name, printed)
		}
		if err := hostile.Terminal(Fit(printed, 16)); err != nil {
			t.Errorf("%s: Fit: %v", name, err)
		}
		raw, err := json.Marshal(map[string]string{text: text})
		if err != nil {
			t.Fatal(err)
		}
		escaped := EscapeJSON(raw)
		if err := hostile.JSON(string(escaped)); err != nil {
			t.Errorf("%s: EscapeJSON: %v", name, err)
		}
		var before, after map[string]string
		if json.Unmarshal(raw, &before) != nil || json.Unmarshal(escaped, &after) != nil {
			t.Fatalf("%s: %s", name, escaped)
		}
		if text := strings.ToValidUTF8(text, "\ufffd"); len(after) != 1 || before[text] != after[text] {
			t.Errorf("%s: EscapeJSON changes it to %q", name, after)
		}
	}
}

func TestEscapeJSON(t *testing.T) {
	for in, want := range map[string]string{
		`"a"`:                  `"a"`,
		`"jalapeño 界 ×"`:       `"jalapeño 界 ×"`,
		"\"\u202e\u009b\x7f\"": `"\u202e\u009b\u007f"`,
		"\"\U000e0041\"":       `"\udb40\udc41"`,
		"{\n \"a\": 1\n}\n":    "{\n \"a\": 1\n}\n",
	} {
		if got := string(EscapeJSON([]byte(in))); got != want {
			t.Errorf("%q: %q; want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	for _, text := range hostile.Texts() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := hostile.Terminal(Printable(text)); err != nil {
			t.Error(err)
		}
		raw, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := hostile.JSON(string(EscapeJSON(raw))); err != nil {
			t.Error(err)
		}
	})
}

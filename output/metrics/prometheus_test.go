//go:build prometheus

package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// promtool finds nothing wrong with what is exported, and each alert fires when it shall.
func TestPromtool(t *testing.T) {
	for _, name := range []string{"published-overcharge.jsonl", "bpf-cgroups-6.12.jsonl"} {
		answer := httptest.NewRecorder()
		h, err := handler(recorded(t, name))
		if err != nil {
			t.Fatal(err)
		}
		h.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
		check := exec.Command("promtool", "check", "metrics")
		check.Stdin = bytes.NewReader(answer.Body.Bytes())
		if said, err := check.CombinedOutput(); err != nil || len(said) > 0 {
			t.Errorf("%s: %v: %s", name, err, said)
		}
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		tool := exec.Command("promtool", args...)
		tool.Dir = "../../testdata/agent"
		if said, err := tool.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, said)
		}
	}
}

// Prometheus reads what is exported, and answers the panels of the dashboard.
func TestPrometheus(t *testing.T) {
	h, err := handler(recorded(t, "published-overcharge.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	agent := httptest.NewServer(h)
	defer agent.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("scrape_configs:\n  - job_name: pinwatch\n    scrape_interval: 1s\n    static_configs: [{targets: [%q]}]\n", strings.TrimPrefix(agent.URL, "http://"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	p := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address)
	p.Stderr = &log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		p.Process.Signal(os.Interrupt)
		p.Wait()
		if t.Failed() {
			t.Logf("%s", log.Bytes())
		}
	}()
	ask := func(query string) (values []string, err error) {
		r, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			return nil, err
		}
		defer r.Body.Close()
		var answer struct {
			Status, Error string
			Data          struct{ Result []struct{ Value [2]any } }
		}
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
			return nil, err
		}
		if answer.Status != "success" {
			return nil, fmt.Errorf("%s: %s", query, answer.Error)
		}
		for _, one := range answer.Data.Result {
			values = append(values, fmt.Sprint(one.Value[1]))
		}
		return values, nil
	}
	refused := `pinwatch_refusals_total{subsystem="perf", errno="EPERM"}`
	var got []string
	for end := time.Now().Add(time.Minute); len(got) == 0 && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		got, err = ask(refused)
	}
	if err != nil || len(got) != 1 || got[0] != "2" { // as published: the fifth and the sixth
		t.Fatalf("%v, %v; want 2 refusals", got, err)
	}
	raw, err := os.ReadFile("../../testdata/agent/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	if len(dashboard.Panels) < 8 {
		t.Errorf("%d panels", len(dashboard.Panels))
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			query := strings.NewReplacer("$instance", ".*", "$__rate_interval", "10s", "$__range", "1h").Replace(target.Expr)
			if _, err := ask(query); err != nil {
				t.Errorf("%s: %v", panel.Title, err)
			}
		}
	}
	if values, err := ask(`pinwatch_user_locked_bytes > on (instance) group_left () pinwatch_user_allowance_bytes`); err != nil || len(values) == 0 {
		t.Errorf("the published user has more than its allowance: %v, %v", values, err)
	}
}

package cgroup

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
)

// A container that starts later is found, one that is gone keeps its names, and what is
// remembered is bounded.
func TestNamesOf(t *testing.T) {
	tree, clock := fstest.MapFS{}, time.Unix(0, 0)
	n := NewNames(tree)
	n.now = func() time.Time { return clock }
	path := "/kubepods/burstable/pod3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b/" + id1
	expect := func(what string, want container.Names, called string) {
		t.Helper()
		if got := n.Of(path); got != want {
			t.Errorf("%s: %+v; want %+v", what, got, want)
		}
		if got := n.Called(path); got != called {
			t.Errorf("%s: called %q; want %q", what, got, called)
		}
	}
	expect("before", container.Names{}, id1[:12])
	tree["var/log/pods/prod_web-1_3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b/nginx/0.log"] = &fstest.MapFile{}
	expect("at once", container.Names{}, id1[:12])
	clock = clock.Add(lookAgain)
	expect("the pod", container.Names{Pod: "web-1", Namespace: "prod"}, "prod/web-1")
	bundle := "run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id1 + "/config.json"
	tree[bundle] = &fstest.MapFile{Data: []byte(`{"annotations":{"io.kubernetes.cri.sandbox-namespace":"prod","io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.container-name":"nginx"}}`)}
	clock = clock.Add(lookAgain)
	whole := container.Names{Pod: "web-1", Namespace: "prod", Container: "nginx"}
	expect("the container", whole, "prod/web-1/nginx")
	clear(tree)
	clock = clock.Add(time.Hour)
	expect("gone", whole, "prod/web-1/nginx")

	for i := range 2 * namesKept {
		n.Of(fmt.Sprintf("/system.slice/x%d.service", i))
	}
	if len(n.found) > namesKept {
		t.Errorf("%d paths are remembered", len(n.found))
	}
	expect("forgotten", container.Names{}, id1[:12])
}

// A path names files of its container only: nothing of a path gets into theirs but an id in
// hexadecimal digits.
func TestNamesOfOthers(t *testing.T) {
	for _, path := range []string{"", "/", "/system.slice/ssh.service", "/lxc.payload.../../etc", "/lxc/..", "/machine.slice/machine-..scope"} {
		n := NewNames(fstest.MapFS{})
		if got := n.Of(path); got != (container.Names{}) {
			t.Errorf("%q: %+v", path, got)
		}
	}
	var none *Names
	if got := none.Of("/docker/" + strings.Repeat("a", 64)); got != (container.Names{}) || none.Called("/lxc.payload.web") != "lxc:web" {
		t.Errorf("%+v without a place to look", got)
	}
}

package objects

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
)

// named has a map of one container, held by another of the same pod, and one of Docker's.
func named() *bpfobj.Listing {
	l := summed()
	web := container.Names{Pod: "web-1", Namespace: "prod", Container: "nginx"}
	sidecar := web
	sidecar.Container = "agent"
	l.Objects[0].Names = web
	l.Objects[0].Holders = []bpfobj.Holder{{PID: 9, Comm: "agent", FDs: 1, Cgroup: pod + "/b", Names: sidecar}}
	l.Objects[1].Names = sidecar
	l.Objects[2].Cgroup = "/docker/" + strings.Repeat("0123456789abcdef", 4)
	l.Objects[2].Names = container.Names{Container: "db"}
	return l
}

func TestNamesChoose(t *testing.T) {
	for name, c := range map[string]struct {
		wanted cgroup.Wanted
		want   []uint32
	}{
		"pod":              {cgroup.Wanted{Pods: []string{"web-1"}}, []uint32{1, 2}},
		"its uid":          {cgroup.Wanted{Pods: []string{"3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b"}}, []uint32{1, 2}},
		"namespace":        {cgroup.Wanted{Namespaces: []string{"test", "prod"}}, []uint32{1, 2}},
		"another":          {cgroup.Wanted{Pods: []string{"web-1"}, Namespaces: []string{"test"}}, nil},
		"container":        {cgroup.Wanted{Containers: []string{"nginx"}}, []uint32{1}},
		"holder":           {cgroup.Wanted{Containers: []string{"agent"}}, []uint32{1, 2}},
		"Docker's":         {cgroup.Wanted{Containers: []string{"db"}}, []uint32{3}},
		"id":               {cgroup.Wanted{Containers: []string{"0123456789ab"}}, []uint32{3}},
		"too little of it": {cgroup.Wanted{Containers: []string{"0123456789a"}}, nil},
		"no name":          {cgroup.Wanted{Pods: []string{""}}, nil},
	} {
		opts := Options{Sort: "id", Containers: c.wanted}
		var got []uint32
		for _, o := range opts.choose(named()) {
			got = append(got, o.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: want - got +\n%s", name, diff)
		}
	}
}

// A container is called by its names in the column of cgroups, and so are sums.
func TestNamesShown(t *testing.T) {
	for _, c := range []struct {
		opts Options
		want []string
	}{
		{Options{}, []string{"prod/web-1/nginx", "prod/web-1/agent", "64 KiB db"}},
		{Options{By: "cgroup"}, []string{"prod/web-1/nginx 1 0 4 KiB", "prod/web-1/agent 1 0 8 KiB", "db 1 0 64 KiB"}},
		{Options{By: "pod"}, []string{"prod/web-1 2 0 12 KiB", "no pod 1 0 64 KiB"}},
		{Options{JSON: true}, []string{`"pod_name":"web-1","pod_namespace":"prod","container_name":"nginx"`, `"cgroup":"` + pod + `/b","pod_name":"web-1","pod_namespace":"prod","container_name":"agent"`}},
		{Options{By: "pod", JSON: true}, []string{`"group":"3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b","label":"prod/web-1"`}},
	} {
		got := columnsApart(sums(t, named(), c.opts))
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%+v: no %q in\n%s", c.opts, want, got)
			}
		}
	}
}

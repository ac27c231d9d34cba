package container

import (
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	id   = "4d0c9d0e7ab41f0b5c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7"
	uid  = "3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b"
	uid2 = "33d556edd3ae8ef21980288cef77ae8b" // of a static pod
)

func files(all ...map[string]string) fstest.MapFS {
	tree := fstest.MapFS{}
	for _, files := range all {
		for name, content := range files {
			tree[name] = &fstest.MapFile{Data: []byte(content)}
		}
	}
	return tree
}

// What the runtimes and kubelet leave on a node.

func ofContainerd(state, annotations string) map[string]string {
	bundle := state + "/io.containerd.runtime.v2.task/k8s.io/" + id
	return map[string]string{bundle + "/config.json": `{"ociVersion":"1.1.0","process":{"args":["/app"]},"hostname":"web-1","annotations":` + annotations +
		`,"linux":{"cgroupsPath":"/kubepods/burstable/pod` + uid + "/" + id + `"}}`, bundle + "/init.pid": "4711"}
}

func ofStorage(annotations string) map[string]string {
	return map[string]string{"run/containers/storage/overlay-containers/" + id + "/userdata/config.json": `{"ociVersion":"1.0.2","annotations":` + annotations + `}`}
}

func ofDocker(name, labels string) map[string]string {
	return map[string]string{"var/lib/docker/containers/" + id + "/config.v2.json": `{"StreamConfig":{},"State":{"Running":true},"ID":"` + id +
		`","Config":{"Hostname":"x","Labels":` + labels + `},"Name":"` + name + `"}`}
}

const (
	criContainer = `{"io.kubernetes.cri.container-name":"nginx","io.kubernetes.cri.container-type":"container","io.kubernetes.cri.image-name":"docker.io/library/nginx:1",` +
		`"io.kubernetes.cri.sandbox-id":"abc","io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"prod"}`
	criSandbox = `{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"abc","io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"prod"}`
	crio       = `{"io.container.manager":"cri-o","io.kubernetes.container.name":"nginx","io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.pod.name":"web-1",` +
		`"io.kubernetes.pod.namespace":"prod","io.kubernetes.pod.uid":"` + uid + `"}`
	kubeletLabels = `{"io.kubernetes.container.name":"POD","io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"prod"}`
)

func TestFind(t *testing.T) {
	podLogs := map[string]string{
		"var/log/pods/prod_web-1_" + uid + "/nginx/0.log":                            "",
		"var/log/pods/kube-system_kube-apiserver-node1_" + uid2 + "/apiserver/1.log": "",
	}
	podman := ofStorage(`{"io.container.manager":"libpod","org.opencontainers.image.stopSignal":"15"}`)
	maps.Copy(podman, map[string]string{"var/lib/containers/storage/overlay-containers/containers.json": `[{"id":"0000","names":["other"]},{"id":"` + id + `","names":["web"],"layer":"x"}]`})
	for name, c := range map[string]struct {
		tree    fs.FS
		id, uid string
		want    Names
	}{
		"containerd":               {files(ofContainerd("run/containerd", criContainer)), id, uid, Names{"web-1", "prod", "nginx"}},
		"k3s":                      {files(ofContainerd("run/k3s/containerd", criContainer)), id, uid, Names{"web-1", "prod", "nginx"}},
		"containerd's sandbox":     {files(ofContainerd("run/containerd", criSandbox)), id, uid, Names{"web-1", "prod", ""}},
		"of another container":     {files(ofContainerd("run/containerd", criContainer)), strings.Repeat("0", 64), "", Names{}},
		"CRI-O":                    {files(ofStorage(crio)), id, uid, Names{"web-1", "prod", "nginx"}},
		"CRI-O's sandbox":          {files(ofStorage(strings.Replace(crio, `"nginx"`, `"POD"`, 1))), id, uid, Names{"web-1", "prod", ""}},
		"Podman":                   {files(podman), id, "", Names{"", "", "web"}},
		"Podman without its list":  {files(ofStorage(`{}`)), id, "", Names{}},
		"Docker":                   {files(ofDocker("/web", `{"com.docker.compose.service":"web"}`)), id, "", Names{"", "", "web"}},
		"Docker below kubelet":     {files(ofDocker("/k8s_POD_web-1", kubeletLabels)), id, uid, Names{"web-1", "prod", ""}},
		"kubelet's links":          {files(map[string]string{"var/log/containers/web-1_prod_nginx-" + id + ".log": ""}), id, uid, Names{"web-1", "prod", "nginx"}},
		"kubelet's directories":    {files(podLogs), id, uid, Names{"web-1", "prod", ""}},
		"a pod's own cgroup":       {files(podLogs), "", uid, Names{"web-1", "prod", ""}},
		"a static pod":             {files(podLogs), "", uid2, Names{"kube-apiserver-node1", "kube-system", ""}},
		"Docker's and kubelet's":   {files(ofDocker("/web", `{}`), podLogs), id, uid, Names{"web-1", "prod", "web"}},
		"nothing":                  {files(), id, uid, Names{}},
		"neither id nor uid":       {files(podLogs), "", "", Names{}},
		"no JSON":                  {files(ofContainerd("run/containerd", `{"io.kubernetes`)), id, "", Names{}},
		"annotations of no object": {files(ofContainerd("run/containerd", `["web"]`)), id, "", Names{}},
		"null":                     {files(ofContainerd("run/containerd", `null`)), id, "", Names{}},
		"a directory":              {files(map[string]string{"run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id + "/config.json/x": ""}), id, "", Names{}},
		"a name of 254":            {files(ofDocker("/"+strings.Repeat("x", 254), `{}`)), id, "", Names{}},
		"more in a link":           {files(map[string]string{"var/log/containers/a_b_c_d-" + id + ".log": ""}), id, "", Names{}},
	} {
		if got := Find(c.tree, c.id, c.uid); got != c.want {
			t.Errorf("%s: %+v; want %+v", name, got, c.want)
		}
	}
}

// A file of any size is read up to a bound, and what is no regular file is not opened: a FIFO
// would wait for a writer.
func TestFindReadsFilesOnly(t *testing.T) {
	huge := ofDocker("/web", `{"x":"`+strings.Repeat("x", largestFile)+`"}`)
	if got := Find(files(huge), id, ""); got != (Names{}) {
		t.Errorf("%+v of %d MiB", got, largestFile>>20)
	}
	tree := files(ofDocker("/web", `{}`))
	for _, f := range tree {
		f.Mode = fs.ModeNamedPipe
	}
	if got := Find(tree, id, ""); got != (Names{}) {
		t.Errorf("%+v of a FIFO", got)
	}
}

func TestNamesString(t *testing.T) {
	for want, n := range map[string]Names{
		"":                 {},
		"web":              {Container: "web"},
		"prod/web-1":       {Namespace: "prod", Pod: "web-1"},
		"prod/web-1/nginx": {Namespace: "prod", Pod: "web-1", Container: "nginx"},
	} {
		if got := n.String(); got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
}

// Whatever a file holds, names are short or none.
func FuzzFind(f *testing.F) {
	f.Add(criContainer, "/web", `{}`)
	f.Add(`{"io.kubernetes.pod.name":"\u001b[2J\u202e"}`, "\\u0000", kubeletLabels)
	f.Fuzz(func(t *testing.T, annotations, name, labels string) {
		for _, tree := range []fs.FS{files(ofContainerd("run/containerd", annotations)), files(ofStorage(annotations)), files(ofDocker(name, labels))} {
			n := Find(tree, id, uid)
			if text := fmt.Sprint(n.Pod, n.Namespace, n.Container); len(text) > 3*longestName {
				t.Errorf("%d bytes of names", len(text))
			}
		}
	})
}

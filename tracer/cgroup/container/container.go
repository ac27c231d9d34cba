// Package container finds what people call a container and its pod, in what the node's
// runtime and its kubelet leave on disk. It asks no socket and no API.
package container

import (
	"encoding/json"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Names are what people call a container and its pod. What is not known is "".
type Names struct {
	Pod       string `json:"pod_name"`
	Namespace string `json:"pod_namespace"`
	Container string `json:"container_name"`
}

// String is namespace/pod/container, as far as they are known.
func (n Names) String() string {
	var known []string
	for _, name := range []string{n.Namespace, n.Pod, n.Container} {
		if name != "" {
			known = append(known, name)
		}
	}
	return strings.Join(known, "/")
}

// Parse is what String says.
func Parse(text string) (n Names) {
	switch parts := strings.Split(text, "/"); len(parts) {
	case 1:
		n.Container = parts[0]
	case 2:
		n.Namespace, n.Pod = parts[0], parts[1]
	default:
		n.Namespace, n.Pod, n.Container = parts[0], parts[1], parts[2]
	}
	return n
}

// complete takes from other names what is not known.
func (n *Names) complete(other Names) {
	for _, pair := range [][2]*string{{&n.Pod, &other.Pod}, {&n.Namespace, &other.Namespace}, {&n.Container, &other.Container}} {
		if *pair[0] == "" {
			*pair[0] = *pair[1]
		}
	}
}

// Find looks names up below the root directory of a machine: of a container by its full id,
// 64 hexadecimal digits, and of a pod by its uid. Either may be "".
func Find(root fs.FS, containerID, podUID string) (n Names) {
	if containerID != "" {
		for _, find := range []func(fs.FS, string) Names{containerd, storage, docker, logs} {
			if n.complete(find(root, containerID)); n.Pod != "" && n.Container != "" {
				return n
			}
		}
	}
	if n.Pod == "" && podUID != "" {
		n.complete(pod(root, podUID))
	}
	return n
}

// bundle is an OCI config.json: what the runtime starts a container from.
type bundle struct {
	Annotations map[string]string `json:"annotations"`
}

// containerd keeps the bundles of Kubernetes' containers in a namespace of its own, below
// its state directory, which k3s has elsewhere. A sandbox has no name but its pod's.
func containerd(root fs.FS, id string) Names {
	for _, state := range []string{"run/containerd", "run/k3s/containerd"} {
		var b bundle
		if read(root, path.Join(state, "io.containerd.runtime.v2.task/k8s.io", id, "config.json"), &b) {
			return names(b.Annotations["io.kubernetes.cri.sandbox-namespace"], b.Annotations["io.kubernetes.cri.sandbox-name"], b.Annotations["io.kubernetes.cri.container-name"])
		}
	}
	return Names{}
}

// storage is the directory that CRI-O and Podman share. CRI-O annotates what kubelet calls a
// container; Podman's own names are in a list.
func storage(root fs.FS, id string) Names {
	var b bundle
	if !read(root, path.Join("run/containers/storage/overlay-containers", id, "userdata/config.json"), &b) {
		return Names{}
	}
	if n := kubelet(b.Annotations); n != (Names{}) {
		return n
	}
	var list []struct {
		ID    string   `json:"id"`
		Names []string `json:"names"`
	}
	read(root, "var/lib/containers/storage/overlay-containers/containers.json", &list)
	for _, c := range list {
		if c.ID == id && len(c.Names) > 0 {
			return names("", "", c.Names[0])
		}
	}
	return Names{}
}

// docker has a name for each container, which for one of kubelet's is made up of its labels.
func docker(root fs.FS, id string) Names {
	var c struct {
		Name   string `json:"Name"`
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"Config"`
	}
	if !read(root, path.Join("var/lib/docker/containers", id, "config.v2.json"), &c) {
		return Names{}
	}
	if n := kubelet(c.Config.Labels); n != (Names{}) {
		return n
	}
	return names("", "", strings.TrimPrefix(c.Name, "/"))
}

// kubelet reads the labels that kubelet gives. What it calls POD is a sandbox.
func kubelet(labels map[string]string) Names {
	container := labels["io.kubernetes.container.name"]
	if container == "POD" {
		container = ""
	}
	return names(labels["io.kubernetes.pod.namespace"], labels["io.kubernetes.pod.name"], container)
}

// logs reads kubelet's links to the logs of containers, whatever the runtime:
// POD_NAMESPACE_CONTAINER-ID.log.
func logs(root fs.FS, id string) Names {
	entries, _ := fs.ReadDir(root, "var/log/containers")
	for _, e := range entries {
		if of, ok := strings.CutSuffix(e.Name(), "-"+id+".log"); ok {
			if parts := strings.Split(of, "_"); len(parts) == 3 {
				return names(parts[1], parts[0], parts[2])
			}
		}
	}
	return Names{}
}

// pod reads kubelet's directories of pods' logs: NAMESPACE_POD_UID.
func pod(root fs.FS, uid string) Names {
	entries, _ := fs.ReadDir(root, "var/log/pods")
	for _, e := range entries {
		if of, ok := strings.CutSuffix(e.Name(), "_"+uid); ok {
			if parts := strings.Split(of, "_"); len(parts) == 2 {
				return names(parts[0], parts[1], "")
			}
		}
	}
	return Names{}
}

// longestName is the longest that Kubernetes takes. A longer text is no name, nor is one with
// a slash, which no runtime takes.
const longestName = 253

func names(namespace, pod, container string) Names {
	for _, name := range []*string{&namespace, &pod, &container} {
		if len(*name) > longestName || strings.Contains(*name, "/") {
			*name = ""
		}
	}
	if namespace == "" || pod == "" {
		namespace, pod = "", "" // a pod has both
	}
	return Names{pod, namespace, container}
}

// largestFile is what a file may have, in bytes: bundles have some 10 KiB.
const largestFile = 8 << 20

// read reads a JSON file; false where it is none.
func read(root fs.FS, name string, into any) bool {
	info, err := fs.Stat(root, name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > largestFile {
		return false
	}
	f, err := root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, largestFile))
	return err == nil && json.Unmarshal(raw, into) == nil
}

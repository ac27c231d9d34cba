package advice

import (
	"regexp"
	"strings"
)

// Container names the container of a cgroup path, as its runtime names it: a
// short id for docker, containerd, CRI-O and podman, the name for LXC and
// systemd-nspawn. "" for what is none.
func Container(cgroup string) string {
	parts := strings.Split(cgroup, "/")
	for i := len(parts) - 1; i >= 0; i-- {
		part := strings.TrimSuffix(parts[i], ".scope")
		if id := containerID.FindString(part); id != "" {
			runtime, _, _ := strings.Cut(part, id)
			runtime = strings.TrimPrefix(strings.TrimSuffix(runtime, "-"), "cri-")
			if runtime == "" && i > 0 && parts[i-1] == "docker" {
				runtime = "docker"
			}
			return strings.TrimPrefix(runtime+":"+id[:12], ":")
		}
		if name, ok := strings.CutPrefix(part, "lxc.payload."); ok {
			return "lxc:" + name
		}
		if name, ok := strings.CutPrefix(part, "machine-"); ok {
			return "machine:" + strings.TrimSuffix(name, ".service")
		}
	}
	return ""
}

// containerID is 64 hex digits, for every runtime of the OCI's.
var containerID = regexp.MustCompile(`[0-9a-f]{64}`)

package cgroup

import (
	"regexp"
	"strings"
)

// Kinds of what a cgroup is for.
const (
	KindRoot      = "root"
	KindContainer = "container" // or a process that belongs to one, such as its monitor
	KindPod       = "pod"       // of no container in it
	KindUser      = "user"      // a login session or a user's manager, and what it runs
	KindService   = "service"
	KindScope     = "scope"
	KindSlice     = "slice"
	KindOther     = "other"
)

// Runtimes.
const (
	RuntimeDocker     = "docker"
	RuntimeContainerd = "containerd"
	RuntimeCRIO       = "cri-o"
	RuntimePodman     = "podman"
	RuntimeNspawn     = "systemd-nspawn"
	RuntimeLXC        = "lxc"
	RuntimeLibvirt    = "libvirt"
)

// Identity is what a cgroup's path says about who is in it. Absent facts are
// "".
type Identity struct {
	Kind        string
	Runtime     string // "" for a container whose path does not tell
	ContainerID string // in full; the name, where the runtime has no ids
	PodUID      string // with dashes, as Kubernetes writes it
	Unit        string // the innermost systemd unit
}

// Short names the container as a row has room for it: runtime:id, with the first twelve
// digits of an id, or the name where the runtime has no ids; "" for what is none.
func (id *Identity) Short() string {
	short := id.ContainerID
	if hexID.MatchString(short) {
		short = short[:12]
	}
	if id.Runtime == "" || short == "" {
		return short
	}
	return id.Runtime + ":" + short
}

// Identify reads a path such as /system.slice/ssh.service. Of containers in
// containers it names the innermost one.
func Identify(path string) Identity {
	id := Identity{Kind: KindOther}
	if strings.Trim(path, "/") == "" {
		id.Kind = KindRoot
		return id
	}
	parent := ""
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		// A runtime told the wrong cgroup driver makes one directory of
		// SLICE:PREFIX:ID.
		for part := range strings.SplitSeq(name, ":") {
			id.add(part, parent)
			parent = part
		}
	}
	return id
}

// add takes in one more component of a path.
func (id *Identity) add(name, parent string) {
	if uid := podUID(name); uid != "" {
		id.Kind, id.PodUID = KindPod, uid
		id.Runtime, id.ContainerID = "", ""
	}
	if runtime, container, ok := containerOf(name, parent); ok {
		id.Kind, id.Runtime, id.ContainerID = KindContainer, runtime, container
		if strings.HasSuffix(name, ".scope") || strings.HasSuffix(name, ".service") {
			id.Unit = name
		}
		return
	}
	kind := unitKind(name)
	if kind == "" {
		return
	}
	id.Unit = name
	switch id.Kind {
	case KindContainer, KindPod:
	case KindUser: // what a user's manager runs is the user's
	default:
		id.Kind = kind
	}
}

var (
	hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// kubelet's cgroups: pod<uid>, and kubepods[-qos]-pod<uid>.slice, where a
	// uid's dashes became underscores. A static pod's uid is 32 digits.
	podName = regexp.MustCompile(`^(?:[\w-]*kubepods(?:-burstable|-besteffort)?-)?pod([0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12})(?:\.slice)?$`)
	// The scopes and directories that runtimes make for a container, and for
	// the monitor of one.
	prefixed = regexp.MustCompile(`^(docker|nerdctl|cri-containerd|containerd|crio-conmon|crio|libpod-conmon|libpod-payload|libpod)-([0-9a-f]{64})(?:\.scope)?$`)
	machine  = regexp.MustCompile(`^machine-(.+)\.scope$`)
	nspawn   = regexp.MustCompile(`^systemd-nspawn@(.+)\.service$`)
	lxc      = regexp.MustCompile(`^lxc\.(?:payload|monitor)\.(.+)$`)
)

func podUID(name string) string {
	found := podName.FindStringSubmatch(name)
	if found == nil {
		return ""
	}
	return strings.ReplaceAll(found[1], "_", "-")
}

// containerOf says whose container a directory is.
func containerOf(name, parent string) (runtime, id string, ok bool) {
	if found := prefixed.FindStringSubmatch(name); found != nil {
		return prefixRuntime(found[1]), found[2], true
	}
	if hexID.MatchString(name) {
		return parentRuntime(parent), name, true
	}
	if found := nspawn.FindStringSubmatch(name); found != nil {
		return RuntimeNspawn, unescape(found[1]), true
	}
	if found := machine.FindStringSubmatch(name); found != nil {
		return machineRuntime(unescape(found[1]))
	}
	if found := lxc.FindStringSubmatch(name); found != nil {
		return RuntimeLXC, found[1], true
	}
	if parent == "lxc" || parent == "lxc.payload" || parent == "lxc.monitor" {
		return RuntimeLXC, name, true
	}
	return "", "", false
}

func prefixRuntime(prefix string) string {
	switch prefix {
	case "docker":
		return RuntimeDocker
	case "nerdctl", "cri-containerd", "containerd":
		return RuntimeContainerd
	case "crio", "crio-conmon":
		return RuntimeCRIO
	}
	return RuntimePodman
}

// parentRuntime tells whose a bare id is by the directory that holds it. Below
// a pod's it may be anyone's.
func parentRuntime(parent string) string {
	switch parent {
	case "docker":
		return RuntimeDocker
	case "k8s.io", "default", "cri-containerd":
		return RuntimeContainerd
	case "crio":
		return RuntimeCRIO
	case "libpod_parent":
		return RuntimePodman
	}
	return ""
}

// machineRuntime tells machined's machines apart: libvirt prefixes its own.
func machineRuntime(name string) (runtime, id string, ok bool) {
	for _, driver := range []string{"qemu-", "lxc-"} {
		if rest, found := strings.CutPrefix(name, driver); found {
			return RuntimeLibvirt, rest, true
		}
	}
	return RuntimeNspawn, name, true
}

func unitKind(name string) string {
	switch {
	case strings.HasPrefix(name, "user-") && strings.HasSuffix(name, ".slice"),
		strings.HasPrefix(name, "user@") && strings.HasSuffix(name, ".service"):
		return KindUser
	case strings.HasSuffix(name, ".service"):
		return KindService
	case strings.HasSuffix(name, ".scope"):
		return KindScope
	case strings.HasSuffix(name, ".slice"):
		return KindSlice
	}
	return ""
}

var escaped = regexp.MustCompile(`\\x[0-9a-f]{2}`)

// unescape undoes systemd's escaping in unit names: \x2d is a dash.
func unescape(name string) string {
	return escaped.ReplaceAllStringFunc(name, func(code string) string {
		return string(rune(hexDigit(code[2])<<4 | hexDigit(code[3])))
	})
}

func hexDigit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	id1 = "4d0c9d0e7ab4d8a5cf6a1a1a6b1b2e3f40516273849586a7b8c9dae0f1021324"
	id2 = "b58c0d3e5f6a7b8c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e"
	uid = "3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b"
)

// The shapes of paths that runtimes and drivers make.
func TestIdentify(t *testing.T) {
	under := strings.ReplaceAll(uid, "-", "_")
	bare := strings.ReplaceAll(uid, "-", "")
	for path, want := range map[string]Identity{
		"/": {Kind: KindRoot},
		"":  {Kind: KindRoot},
		// systemd alone
		"/init.scope":                                         {Kind: KindScope, Unit: "init.scope"},
		"/system.slice":                                       {Kind: KindSlice, Unit: "system.slice"},
		"/system.slice/ssh.service":                           {Kind: KindService, Unit: "ssh.service"},
		"/system.slice/docker.service":                        {Kind: KindService, Unit: "docker.service"},
		"/system.slice/run-u12.scope":                         {Kind: KindScope, Unit: "run-u12.scope"},
		"/system.slice/system-getty.slice/getty@tty1.service": {Kind: KindService, Unit: "getty@tty1.service"},
		"/system.slice/systemd-udevd.service/udev":            {Kind: KindService, Unit: "systemd-udevd.service"},
		"/user.slice/user-1000.slice":                         {Kind: KindUser, Unit: "user-1000.slice"},
		"/user.slice/user-1000.slice/session-3.scope":         {Kind: KindUser, Unit: "session-3.scope"},
		"/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-4711.scope": {Kind: KindUser, Unit: "app-firefox-4711.scope"},
		"/user.slice/user-1000.slice/user@1000.service/init.scope":                       {Kind: KindUser, Unit: "init.scope"},
		"/my/own": {Kind: KindOther},
		"/process_api/3a0905c728ccdd9a2de600cd0f90124d": {Kind: KindOther}, // 32 digits are no container id
		// docker
		"/docker/" + id1:                               {Kind: KindContainer, Runtime: RuntimeDocker, ContainerID: id1},
		"/docker/" + id1 + "/docker/" + id2:            {Kind: KindContainer, Runtime: RuntimeDocker, ContainerID: id2},
		"/system.slice/docker-" + id1 + ".scope":       {Kind: KindContainer, Runtime: RuntimeDocker, ContainerID: id1, Unit: "docker-" + id1 + ".scope"},
		"/docker/" + id1 + "/system.slice/ssh.service": {Kind: KindContainer, Runtime: RuntimeDocker, ContainerID: id1, Unit: "ssh.service"},
		"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id1 + ".scope": {Kind: KindContainer, Runtime: RuntimeDocker, ContainerID: id1, Unit: "docker-" + id1 + ".scope"},
		"/ecs/8f0a4a559d7e0c1d2e3f4a5b/" + id1:                                              {Kind: KindContainer, ContainerID: id1},
		"/ecstasks.slice/ecstasks-8f0a.slice/docker-" + id1 + ".scope":                      {Kind: KindContainer, Runtime: RuntimeDocker, ContainerID: id1, Unit: "docker-" + id1 + ".scope"},
		// containerd without Kubernetes
		"/default/" + id1:                         {Kind: KindContainer, Runtime: RuntimeContainerd, ContainerID: id1},
		"/k8s.io/" + id1:                          {Kind: KindContainer, Runtime: RuntimeContainerd, ContainerID: id1},
		"/system.slice/nerdctl-" + id1 + ".scope": {Kind: KindContainer, Runtime: RuntimeContainerd, ContainerID: id1, Unit: "nerdctl-" + id1 + ".scope"},
		// podman
		"/machine.slice/libpod-" + id1 + ".scope":                                                     {Kind: KindContainer, Runtime: RuntimePodman, ContainerID: id1, Unit: "libpod-" + id1 + ".scope"},
		"/machine.slice/libpod-" + id1 + ".scope/container":                                           {Kind: KindContainer, Runtime: RuntimePodman, ContainerID: id1, Unit: "libpod-" + id1 + ".scope"},
		"/machine.slice/libpod-conmon-" + id1 + ".scope":                                              {Kind: KindContainer, Runtime: RuntimePodman, ContainerID: id1, Unit: "libpod-conmon-" + id1 + ".scope"},
		"/libpod_parent/libpod-" + id1:                                                                {Kind: KindContainer, Runtime: RuntimePodman, ContainerID: id1},
		"/machine.slice/machine-libpod_pod_" + id2 + ".slice/libpod-" + id1 + ".scope/container":      {Kind: KindContainer, Runtime: RuntimePodman, ContainerID: id1, Unit: "libpod-" + id1 + ".scope"},
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id1 + ".scope/container": {Kind: KindContainer, Runtime: RuntimePodman, ContainerID: id1, Unit: "libpod-" + id1 + ".scope"},
		"/system.slice/web.service/libpod-payload-" + id1:                                             {Kind: KindContainer, Runtime: RuntimePodman, ContainerID: id1, Unit: "web.service"},
		// machines
		"/machine.slice/systemd-nspawn@deb\\x2d12.service/payload/system.slice/cron.service": {Kind: KindContainer, Runtime: RuntimeNspawn, ContainerID: "deb-12", Unit: "cron.service"},
		"/machine.slice/machine-deb12.scope":                                                 {Kind: KindContainer, Runtime: RuntimeNspawn, ContainerID: "deb12", Unit: "machine-deb12.scope"},
		`/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/vcpu0`:                         {Kind: KindContainer, Runtime: RuntimeLibvirt, ContainerID: "1-vm", Unit: `machine-qemu\x2d1\x2dvm.scope`},
		"/lxc/web": {Kind: KindContainer, Runtime: RuntimeLXC, ContainerID: "web"},
		"/lxc.payload.web/system.slice/cron.service": {Kind: KindContainer, Runtime: RuntimeLXC, ContainerID: "web", Unit: "cron.service"},
		"/lxc.payload/web":                           {Kind: KindContainer, Runtime: RuntimeLXC, ContainerID: "web"},
		"/lxc.monitor.web":                           {Kind: KindContainer, Runtime: RuntimeLXC, ContainerID: "web"},
		// Kubernetes, cgroupfs driver
		"/kubepods/burstable/pod" + uid + "/" + id1:      {Kind: KindContainer, ContainerID: id1, PodUID: uid},
		"/kubepods/besteffort/pod" + uid + "/" + id1:     {Kind: KindContainer, ContainerID: id1, PodUID: uid},
		"/kubepods/pod" + uid + "/" + id1:                {Kind: KindContainer, ContainerID: id1, PodUID: uid},
		"/kubepods/burstable/pod" + uid:                  {Kind: KindPod, PodUID: uid},
		"/kubepods/burstable/pod" + uid + "/crio-" + id1: {Kind: KindContainer, Runtime: RuntimeCRIO, ContainerID: id1, PodUID: uid},
		"/kubepods/pod" + bare + "/" + id1:               {Kind: KindContainer, ContainerID: id1, PodUID: bare}, // a static pod
		"/kubepods":                                      {Kind: KindOther},
		// Kubernetes, systemd driver
		"/kubepods.slice/kubepods-burstable.slice":        {Kind: KindSlice, Unit: "kubepods-burstable.slice"},
		"/kubepods.slice/kubepods-pod" + under + ".slice": {Kind: KindPod, PodUID: uid, Unit: "kubepods-pod" + under + ".slice"},
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + id1 + ".scope": {
			Kind: KindContainer, Runtime: RuntimeContainerd, ContainerID: id1, PodUID: uid, Unit: "cri-containerd-" + id1 + ".scope"},
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/crio-" + id1 + ".scope/container": {
			Kind: KindContainer, Runtime: RuntimeCRIO, ContainerID: id1, PodUID: uid, Unit: "crio-" + id1 + ".scope"},
		"/kubepods.slice/kubepods-pod" + under + ".slice/crio-conmon-" + id1 + ".scope": {
			Kind: KindContainer, Runtime: RuntimeCRIO, ContainerID: id1, PodUID: uid, Unit: "crio-conmon-" + id1 + ".scope"},
		"/kubepods.slice/kubepods-pod" + under + ".slice/docker-" + id1 + ".scope": {
			Kind: KindContainer, Runtime: RuntimeDocker, ContainerID: id1, PodUID: uid, Unit: "docker-" + id1 + ".scope"},
		"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + under + ".slice/cri-containerd-" + id1 + ".scope": {
			Kind: KindContainer, Runtime: RuntimeContainerd, ContainerID: id1, PodUID: uid, Unit: "cri-containerd-" + id1 + ".scope"},
		// Kubernetes in docker: the innermost counts
		"/docker/" + id2 + "/kubelet/kubepods/burstable/pod" + uid + "/" + id1: {Kind: KindContainer, ContainerID: id1, PodUID: uid},
		"/docker/" + id2 + "/kubelet/kubepods/burstable/pod" + uid:             {Kind: KindPod, PodUID: uid},
		// systemd-like names with the cgroupfs driver
		"/system.slice/containerd.service/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + id1: {
			Kind: KindContainer, Runtime: RuntimeContainerd, ContainerID: id1, PodUID: uid, Unit: "kubepods-burstable-pod" + under + ".slice"},
	} {
		if diff := cmp.Diff(want, Identify(path)); diff != "" {
			t.Errorf("Identify(%q): want - got +\n%s", path, diff)
		}
	}
}

// Mounts as they are seen on hosts and in containers.
const (
	mountsV2 = `22 1 0:20 / /proc rw,relatime - proc proc rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate
`
	mountsV1 = `24 18 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
25 24 0:23 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd
26 24 0:24 / /sys/fs/cgroup/memory rw shared:14 - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
`
	mountsHybrid = mountsV1 + `28 24 0:29 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
`
	mountsContainer = `26 24 0:24 /docker/abc /sys/fs/cgroup/memory ro master:14 - cgroup cgroup rw,memory
`
	mountsOdd = `30 24 0:26 / /mnt/my\040cgroups rw - cgroup2 none rw
`
)

func hostWith(mounts string, files map[string]string) fstest.MapFS {
	root := fstest.MapFS{"proc/self/mountinfo": {Data: []byte(mounts)}}
	for name, content := range files {
		root[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return root
}

func open(t *testing.T, root fstest.MapFS) *Tree {
	t.Helper()
	tree, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestMemory(t *testing.T) {
	for name, c := range map[string]struct {
		mounts string
		files  map[string]string
		cgroup string
		want   Memory
		err    string
	}{
		"v2":                         {mountsV2, map[string]string{"sys/fs/cgroup/a/memory.current": "4096\n", "sys/fs/cgroup/a/memory.max": "8192\n"}, "/a", Memory{4096, 8192, false}, ""},
		"v2 unlimited":               {mountsV2, map[string]string{"sys/fs/cgroup/a/memory.current": "4096\n", "sys/fs/cgroup/a/memory.max": "max\n"}, "/a", Memory{4096, Unlimited, false}, ""},
		"v2 root":                    {mountsV2, nil, "/", Memory{}, "memory.current"},
		"v1":                         {mountsV1, map[string]string{"sys/fs/cgroup/memory/a/memory.usage_in_bytes": "4096\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "8192\n"}, "/a", Memory{4096, 8192, true}, ""},
		"v1 unlimited":               {mountsHybrid, map[string]string{"sys/fs/cgroup/memory/memory.usage_in_bytes": "4096\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, "/", Memory{4096, Unlimited, true}, ""},
		"v1 unlimited, 64 KiB pages": {mountsV1, map[string]string{"sys/fs/cgroup/memory/memory.usage_in_bytes": "0\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854710272\n"}, "/", Memory{0, Unlimited, true}, ""},
		"container":                  {mountsContainer, map[string]string{"sys/fs/cgroup/memory/x/memory.usage_in_bytes": "1\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "2\n"}, "/docker/abc/x", Memory{1, 2, true}, ""},
		"elsewhere":                  {mountsContainer, nil, "/docker/abcd", Memory{}, "not to be seen"},
		"a space":                    {mountsOdd, map[string]string{"mnt/my cgroups/a/memory.current": "1\n", "mnt/my cgroups/a/memory.max": "2\n"}, "/a", Memory{1, 2, false}, ""},
		"nothing":                    {"", nil, "/a", Memory{}, "no cgroup hierarchy"},
		"nonsense":                   {mountsV2, map[string]string{"sys/fs/cgroup/a/memory.current": "some\n"}, "/a", Memory{}, "some"},
	} {
		got, err := open(t, hostWith(c.mounts, c.files)).Memory(c.cgroup)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: error %v; want %q", name, err, c.err)
		}
		if got != c.want {
			t.Errorf("%s: %+v; want %+v", name, got, c.want)
		}
	}
}

func TestProcess(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Membership
		path string
	}{
		"v2":                   {"0::/system.slice/ssh.service\n", Membership{V2: "/system.slice/ssh.service"}, "/system.slice/ssh.service"},
		"v1":                   {"9:memory:/docker/a\n4:cpu,cpuacct:/x\n1:name=systemd:/docker/b\n", Membership{Memory: "/docker/a", Systemd: "/docker/b"}, "/docker/a"},
		"hybrid":               {"9:memory:/m\n1:name=systemd:/s\n0::/u\n", Membership{V2: "/u", Memory: "/m", Systemd: "/s"}, "/m"},
		"hybrid, memory on v2": {"3:cpuset:/\n1:name=systemd:/s\n0::/u\n", Membership{V2: "/u", Systemd: "/s"}, "/u"},
		"v1 without memory":    {"1:name=systemd:/s\n0::/\n", Membership{V2: "/", Systemd: "/s"}, "/s"},
		"deleted":              {"0::/gone (deleted)\n", Membership{V2: "/gone"}, "/gone"},
		"colons":               {"0::/a.slice:cri:1\n", Membership{V2: "/a.slice:cri:1"}, "/a.slice:cri:1"},
		"nothing":              {"", Membership{}, ""},
	} {
		got, err := open(t, hostWith(mountsV2, map[string]string{"proc/7/cgroup": c.text})).Process(7)
		if err != nil {
			t.Fatal(err)
		}
		if got != c.want || got.Path() != c.path {
			t.Errorf("%s: %+v, path %q; want %+v, %q", name, got, got.Path(), c.want, c.path)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		cgroup, wanted string
		want           bool
	}{
		{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/", "/a", false},
		{"/a", "/", true}, {"/a", "a", true}, {"/a/b", "/a/", true}, {"", "/", false},
		{"/a/b", "/sys/fs/cgroup/a", true}, {"/b", "/sys/fs/cgroup/a", false}, {"/b", "/sys/fs/cgroup", true},
	} {
		if got := Matches(c.cgroup, c.wanted); got != c.want {
			t.Errorf("Matches(%q, %q): %v", c.cgroup, c.wanted, got)
		}
	}
}

func TestClean(t *testing.T) {
	for _, c := range []struct{ mounts, wanted, want string }{
		{mountsV2, "/sys/fs/cgroup/a", "/a"}, {mountsV2, "/a", "/a"}, {mountsV2, "a/", "/a"}, {mountsV2, "/sys/fs/cgroup", "/"},
		{mountsHybrid, "/sys/fs/cgroup/memory/a", "/a"}, {mountsHybrid, "/sys/fs/cgroup/unified/a", "/a"},
		{mountsV2, "/sys/fs/cgroup/memory/a", "/memory/a"}, {mountsContainer, "/sys/fs/cgroup/memory/x", "/docker/abc/x"},
	} {
		if got := open(t, hostWith(c.mounts, nil)).Clean(c.wanted); got != c.want {
			t.Errorf("Clean(%q): %q; want %q", c.wanted, got, c.want)
		}
	}
}

// A cgroup that a user names must exist, where it is looked for.
func TestNamed(t *testing.T) {
	dirs := map[string]string{"sys/fs/cgroup/memory/docker/a/tasks": "", "sys/fs/cgroup/unified/web.slice/cgroup.procs": ""}
	for _, c := range []struct {
		mounts, wanted string
		in             Scope
		want, err      string
	}{
		{mountsHybrid, "/web.slice", OfCallers(false), "/web.slice", ""},
		{mountsHybrid, "web.slice/", OfCallers(true), "/web.slice", ""},
		{mountsHybrid, "/sys/fs/cgroup/unified/web.slice", AnyHierarchy(), "/web.slice", ""},
		{mountsHybrid, "/docker/a", AnyHierarchy(), "/docker/a", ""},
		{mountsHybrid, "/docker/a", OfCallers(true), "/docker/a", ""},
		{mountsHybrid, "/docker/a", OfCallers(false), "", "cgroup /docker/a: there is none in the v2 hierarchy, by which callers are known: tried /sys/fs/cgroup/unified/docker/a"},
		{mountsHybrid, "/web.slices", AnyHierarchy(), "", "/sys/fs/cgroup/memory/web.slices"},
		{mountsHybrid, "/web.slice/cgroup.procs", OfCallers(false), "", "none"}, // a file
		{mountsV1, "/docker/a", OfCallers(false), "", "tried nothing"},
		{"", "/", AnyHierarchy(), "", "tried nothing"},
		{mountsHybrid, "/", OfCallers(false), "/", ""},
	} {
		got, err := open(t, hostWith(c.mounts, dirs)).named(c.wanted, c.in)
		if got != c.want || c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s in %s: %q, %v; want %q, %q", c.wanted, c.in.name, got, err, c.want, c.err)
		}
	}
	if path, err := Named("", OfCallers(false)); path != "" || err != nil {
		t.Errorf("none: %q, %v", path, err)
	}
}

// Before 5.5 an id is an inode's number and its generation, which the inode's number alone
// does not tell.
func TestIDInHandle(t *testing.T) {
	for _, c := range []struct {
		name string
		form int32
		raw  []byte
		want uint64
		ok   bool
	}{
		{"before 5.5", fileIDInode, []byte{11, 0, 0, 0, 1, 0, 0, 0}, 1<<32 | 11, true},
		{"since 5.5", fileIDKernfs, []byte{11, 0, 0, 0, 0, 0, 0, 0}, 11, true},
		{"with a parent", 2, []byte{11, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0}, 0, false},
		{"too short", fileIDInode, []byte{11, 0, 0, 0}, 0, false},
	} {
		if got, ok := idInHandle(c.form, c.raw); got != c.want || ok != c.ok {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

// Ids are inode numbers; a real directory has them.
func TestPath(t *testing.T) {
	root := t.TempDir()
	makeDir := func(name string) uint64 {
		t.Helper()
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	makeDir("proc/self")
	v2, v1 := makeDir("sys/fs/cgroup/unified/a/b"), makeDir("sys/fs/cgroup/memory/m")
	if err := os.WriteFile(filepath.Join(root, "proc/self/mountinfo"), []byte(mountsHybrid), 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Unix(0, 0)
	var took time.Duration // between two looks at it, such as for a walk
	tree.now = func() time.Time {
		clock = clock.Add(took)
		return clock
	}

	expect := func(id uint64, find func(uint64) (string, bool), want string) {
		t.Helper()
		if got, ok := find(id); got != want || ok != (want != "") {
			t.Errorf("%d: %q, %v; want %q", id, got, ok, want)
		}
	}
	expect(v2, tree.Path, "/a/b")
	expect(v1, tree.MemoryPath, "/m")
	expect(MarkV1(v1), tree.MemoryPath, "/m")
	expect(v1, tree.Path, "") // another hierarchy's
	if v2 < 1<<32 {
		expect(1<<32|v2, tree.Path, "/a/b") // the form of before 5.5, where a kernel gives no handles
		expect(1<<32|v1, tree.Path, "")
	}
	later := makeDir("sys/fs/cgroup/unified/later")
	expect(later, tree.Path, "") // walked just now
	clock = clock.Add(leastRest)
	took = time.Millisecond
	expect(later, tree.Path, "/later")
	took = 0
	latest := makeDir("sys/fs/cgroup/unified/latest")
	clock = clock.Add(leastRest)
	expect(latest, tree.Path, "") // a walk takes a millisecond
	clock = clock.Add(restAfterWalk * time.Millisecond)
	took = time.Minute
	expect(latest, tree.Path, "/latest")
	took = 0
	last := makeDir("sys/fs/cgroup/unified/last")
	clock = clock.Add(longestRest)
	expect(last, tree.Path, "/last")
	os.RemoveAll(filepath.Join(root, "sys/fs/cgroup/unified/a"))
	expect(v2, tree.Path, "/a/b") // remembered: who was charged stays known
}

// This machine's own cgroups, whatever they are.
func TestHost(t *testing.T) {
	tree, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Mounts()) == 0 {
		t.Skip("no cgroup hierarchy is mounted here")
	}
	member, err := tree.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	m, ok := tree.memory()
	if !ok {
		t.Skip("neither v2 nor a memory hierarchy here")
	}
	where := member.Memory
	if m.V2 {
		where = member.V2
	}
	dir, ok := m.dir(where)
	if !ok {
		t.Skipf("%s shows %s only", m.Point, m.Root)
	}
	info, err := os.Stat("/" + dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := tree.MemoryPath(info.Sys().(*syscall.Stat_t).Ino); !ok || got != where {
		t.Errorf("id of %s: %q, %v", where, got, ok)
	}
	// Both ways: with the capability to open a cgroup by its id, and without.
	id, ok := idOf("/" + dir)
	if !ok {
		t.Errorf("the kernel does not tell the id of %s", where)
	}
	if opened, err := openByID(m.Point, id); err == nil && opened != "/"+dir {
		t.Errorf("id %d of %s opens %s", id, dir, opened)
	} else if err != nil && !errors.Is(err, os.ErrPermission) {
		t.Errorf("open %d, of %s: %v", id, dir, err)
	}
	tree.walk(m)
	if got := tree.paths[key{m.Point, id}]; got != where {
		t.Errorf("a walk found %q for id %d of %s", got, id, where)
	}
	if _, ok := tree.MemoryPath(1 << 60); ok {
		t.Error("an id that nothing has was found")
	}
}

func ExampleIdentify() {
	id := Identify("/kubepods/burstable/pod3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b/" + id1)
	fmt.Println(id.Kind, id.PodUID, id.ContainerID[:12])
	// Output: container 3b6f3c1e-8f0a-4a55-9d7e-0c1d2e3f4a5b 4d0c9d0e7ab4
}

// Every view names a container alike: by the runtime and the short id.
func TestShort(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for path, want := range map[string]string{
		"":                                       "",
		"/":                                      "",
		"/user.slice/user-1000.slice":            "",
		"/system.slice/docker-" + hex + ".scope": "docker:0123456789ab",
		"/docker/" + hex:                         "docker:0123456789ab",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-" + hex + ".scope": "containerd:0123456789ab",
		"/kubepods/besteffort/pod1/" + hex:                  "0123456789ab",
		"/kubepods.slice/crio-" + hex + ".scope":            "cri-o:0123456789ab",
		"/machine.slice/libpod-" + hex + ".scope/container": "podman:0123456789ab",
		"/lxc.payload.web/init.scope":                       "lxc:web",
		"/machine.slice/machine-web.scope":                  "systemd-nspawn:web",
	} {
		id := Identify(path)
		if got := id.Short(); got != want {
			t.Errorf("%s: %q; want %q", path, got, want)
		}
	}
}

// Whatever a cgroup is called, who may make one has no say in what is read or written but as
// a name: an id that a file is looked up by is hexadecimal.
func FuzzIdentify(f *testing.F) {
	for _, path := range []string{"/docker/" + id1, "/machine.slice/machine-a\\x2db\\x1b.scope", "/lxc.payload.\x1b[2J/init.scope", "/kubepods.slice:cri-containerd:" + id1, "/system.slice/systemd-nspawn@\\x.service"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		id := Identify(path)
		if id.PodUID != "" && podUID("pod"+id.PodUID) != id.PodUID {
			t.Errorf("%q: pod %q", path, id.PodUID)
		}
		if short := id.Short(); len(short) > len(path)+len("systemd-nspawn:") {
			t.Errorf("%q: %q", path, short)
		}
		tree := fstest.MapFS{}
		NewNames(tree).Of(path)
		for _, m := range parseMounts(path) {
			m.dir(path)
		}
		parseMembership(path)
	})
}

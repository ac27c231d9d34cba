package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// IsInit reports whether this process is the init of a guest of ours.
func IsInit() bool {
	if os.Getpid() != 1 {
		return false
	}
	_, err := os.Stat("/" + jobPath)
	return err == nil
}

var mounts = []struct {
	source, target, fstype string
	required               bool
}{
	{"proc", "/proc", "proc", true},
	{"sysfs", "/sys", "sysfs", true},
	{"devtmpfs", "/dev", "devtmpfs", true},
	{"tmpfs", "/tmp", "tmpfs", true},
	{"tracefs", "/sys/kernel/tracing", "tracefs", false},
	{"debugfs", "/sys/kernel/debug", "debugfs", false},
	{"securityfs", "/sys/kernel/security", "securityfs", false},
	{"bpf", "/sys/fs/bpf", "bpf", false},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", false},
}

// Init is the guest's side: it mounts, runs the command, sends back what it
// prints and its exit code, and ends the machine. It does not return.
func Init() {
	var control io.Writer = os.Stderr
	code, err := initialize(&control)
	if err != nil {
		fmt.Fprintf(control, "error %v\n", err)
	} else {
		fmt.Fprintf(control, "exit %d\n", code)
	}
	if port, ok := control.(*os.File); ok {
		drain(port)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // QEMU is told not to reboot, but to end
	select {}
}

func initialize(control *io.Writer) (int, error) {
	for _, m := range mounts {
		os.MkdirAll(m.target, 0o755)
		if err := unix.Mount(m.source, m.target, m.fstype, 0, ""); err != nil && m.required {
			return 0, fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	os.Chmod("/tmp", 0o1777)
	loopback()
	raw, err := os.ReadFile("/" + jobPath)
	if err != nil {
		return 0, err
	}
	var j job
	if err := json.Unmarshal(raw, &j); err != nil {
		return 0, fmt.Errorf("%s: %w", jobPath, err)
	}
	port, err := openPort(j.Control)
	if err != nil {
		return 0, err
	}
	*control = port
	if _, err := io.WriteString(port, readyLine); err != nil {
		return 0, err
	}
	for _, file := range j.Modules {
		if err := load(file); err != nil {
			return 0, err
		}
	}
	return j.run()
}

// loopback switches lo on, as it is on any machine, where the kernel has it.
func loopback() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if request, err := unix.NewIfreq("lo"); err == nil {
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	}
}

// openPort opens a serial port that passes every byte as it is.
func openPort(name string) (*os.File, error) {
	port, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("serial port: %w", err)
	}
	termios, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("serial port %s: %w", name, err)
	}
	termios.Iflag, termios.Oflag, termios.Lflag = 0, 0, 0
	termios.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, termios); err != nil {
		return nil, fmt.Errorf("serial port %s: %w", name, err)
	}
	return port, nil
}

// drain waits until the port has sent everything.
func drain(port *os.File) { unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1) }

// run starts the command with pipes to the ports, so that it sees no terminal,
// and reaps what becomes of the machine's orphans until it ends.
func (j job) run() (int, error) {
	var readers, writers []*os.File
	var ports []*os.File
	for _, name := range []string{j.Stdout, j.Stderr} {
		port, err := openPort(name)
		if err != nil {
			return 0, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		ports, readers, writers = append(ports, port), append(readers, r), append(writers, w)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	process, err := os.StartProcess(j.Program, j.Args, &os.ProcAttr{
		Dir:   "/",
		Env:   append([]string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "TMPDIR=/tmp"}, j.Env...),
		Files: []*os.File{null, writers[0], writers[1]},
	})
	if err != nil {
		return 0, fmt.Errorf("start the command: %w", err)
	}
	var copies sync.WaitGroup
	for i := range ports {
		writers[i].Close()
		copies.Go(func() { io.Copy(ports[i], readers[i]) })
	}
	status, err := reap(process.Pid)
	if err != nil {
		return 0, err
	}
	// Something that the command left behind may hold a pipe open for ever.
	done := make(chan struct{})
	go func() { copies.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
	for _, port := range ports {
		drain(port)
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

func reap(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return status, fmt.Errorf("wait: %w", err)
		case got == pid:
			return status, nil
		}
	}
}

package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
)

// stepTime is how long one step may take: far more than any needs, even in an
// emulated machine on a busy one.
const stepTime = 20 * time.Second

// reserved is how many events an actor opens before it gives its privileges up.
const reserved = 40

// process is the checker's side of an actor.
type process struct {
	s      *Scene
	name   string // in what is said about it, such as "payer"
	number int    // where it is written down
	cmd    *exec.Cmd
	conn   *net.UnixConn
	pid    int
	by     caller // in the model
	alive  bool
	single bool       // for one scenario: it became what it cannot leave
	maps   []*Mapping // live ones
	filled []*Mapping // those that fill the allowance
	aux    int        // descriptor of an event with an AUX area
}

// Who says what an actor is to be.
type Who struct {
	Name   string
	User   int      // of the scenario's users, from 0
	Limit  int64    // RLIMIT_MEMLOCK in pages
	Caps   []string // that it keeps
	Cgroup string   // "": the scenario's
	UserNS bool     // runs as root of a user namespace of its own
	AUX    uint32   // PMU type to open an event of, besides; 0: none
	Events int      // that it can open; 0: as many as any scenario needs
}

// unlimited is more pages than anything here maps.
const unlimited = int64(1) << 40

func (w *Who) ipcLock() bool {
	for _, c := range w.Caps {
		if c == "cap_ipc_lock" {
			return true
		}
	}
	return false
}

// start runs an actor in the scenario's cgroup.
func (r *run) start(cgroup string, userNS bool, uid int) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "actor"), os.NewFile(uintptr(pair[1]), "control")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	cmd := child.Command(r.ctx, actorChild, nil)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	// Ctrl-C is for the checker, which ends them all.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if userNS {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	if err := r.apart(cmd.Start); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start an actor: %w", err)
	}
	p := &process{cmd: cmd, conn: conn.(*net.UnixConn), pid: cmd.Process.Pid, alive: true}
	if cgroup != "" {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(p.pid)), 0); err != nil {
			p.end()
			return nil, fmt.Errorf("move an actor to its cgroup: %w", err)
		}
	}
	if _, err := p.answer(stepTime); err != nil {
		p.end()
		return nil, fmt.Errorf("start an actor: %w", err)
	}
	return p, nil
}

// end kills the process and waits until it is gone, with all that it had.
func (p *process) end() {
	if !p.alive {
		return
	}
	p.alive = false
	p.cmd.Process.Kill()
	p.conn.Close()
	p.cmd.Wait()
}

// retire ends the process's life in this scenario, if nothing of it stays: it is
// ready for another one then.
func (p *process) retire() bool {
	if p.single || !p.alive || len(p.maps) > 0 {
		return false
	}
	if pin, err := p.vmPin(); err != nil || pin != 0 {
		return false
	}
	if p.send(request{Op: "retire"}, -1) != nil {
		return false
	}
	_, err := p.answer(stepTime) // of the next life
	return err == nil
}

// send hands a request over, with a descriptor or -1.
func (p *process) send(r request, fd int) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err = p.conn.WriteMsgUnix(text, oob, nil)
	return err
}

// errSilent says that a process did not answer in time.
var errSilent = errors.New("no answer in time")

// message is a reply and the descriptor that came with it; -1: none.
type message struct {
	reply
	fd int
}

func (p *process) answer(within time.Duration) (m message, err error) {
	p.conn.SetReadDeadline(time.Now().Add(within))
	buffer, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := p.conn.ReadMsgUnix(buffer, oob)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return m, fmt.Errorf("%w (%v)", errSilent, within)
	case err != nil:
		return m, err
	case n == 0:
		return m, errors.New("it ended")
	}
	m.fd = received(oob[:oobn])
	return m, json.Unmarshal(buffer[:n], &m.reply)
}

// ask does one thing and waits for it. The error is what should not happen:
// errnos of the reply may.
func (p *process) ask(r request, fd int) (message, error) {
	if p.s != nil && p.s.written != nil {
		return message{}, ErrNoProgram // what is written down makes no calls
	}
	if err := p.send(r, fd); err != nil {
		return message{}, fmt.Errorf("%s: %s: %w", p.name, r.Op, err)
	}
	m, err := p.answer(stepTime)
	if err == nil && m.Error != "" {
		err = errors.New(m.Error)
	}
	if err != nil {
		return m, fmt.Errorf("%s: %s: %w", p.name, r.Op, err)
	}
	return m, nil
}

// vmPin is the witness of pinned_vm, in pages: negative where the counter is.
func (p *process) vmPin() (int64, error) {
	kib, err := kernel.VmPin(fmt.Sprint(p.pid))
	return kib / int64(os.Getpagesize()/1024), err
}

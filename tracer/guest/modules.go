package guest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// module is one that a guest loads.
type module struct {
	name  string // as the kernel knows it
	file  string // on the host
	image []byte // unpacked: a guest's kernel may not be able to
}

// endings are those of a module's file, with what unpacks it: "": nothing.
var endings = map[string]string{".ko": "", ".ko.xz": "xz", ".ko.zst": "zstd"}

// moduleOf tells a module's file by its name.
func moduleOf(file string) (name, unpacker string, ok bool) {
	base := filepath.Base(file)
	for ending, unpacker := range endings {
		if name, ok := strings.CutSuffix(base, ending); ok {
			return moduleName(name), unpacker, true
		}
	}
	return "", "", false
}

// moduleName is how the kernel writes a module's name, in which files have dashes.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// modules collects those to load, what each depends on before it.
type modules struct {
	dir   string
	files map[string]string // of the directory, by name
	list  []module
}

// modules are those that were asked for, and with a directory what they depend on, in the
// order in which the guest is to load them.
func (c Config) modules() ([]module, error) {
	m := modules{dir: c.ModuleDir, files: map[string]string{}}
	if m.dir != "" && len(c.Modules) > 0 {
		if err := m.index(); err != nil {
			return nil, err
		}
	}
	for _, asked := range c.Modules {
		file := asked
		if _, _, ok := moduleOf(asked); !ok {
			if strings.Contains(asked, "/") {
				return nil, fmt.Errorf("module %s: want a .ko, .ko.xz or .ko.zst, or the name of one in a directory of modules", asked)
			}
			var err error
			if file, err = m.find(asked); err != nil {
				return nil, fmt.Errorf("module %s: %w", asked, err)
			}
		}
		if err := m.add(file); err != nil {
			return nil, err
		}
	}
	return m.list, nil
}

func (m *modules) index() error {
	err := filepath.WalkDir(m.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _, ok := moduleOf(path); ok && !entry.IsDir() {
			m.files[name] = path
		}
		return nil
	})
	if err == nil && len(m.files) == 0 {
		err = fmt.Errorf("%s: no modules below it", m.dir)
	}
	return err
}

// find finds a module by its name.
func (m *modules) find(name string) (string, error) {
	if m.dir == "" {
		return "", errors.New("a name wants a directory of modules, such as /lib/modules/RELEASE; else name its file")
	}
	file, ok := m.files[moduleName(name)]
	if !ok {
		return "", fmt.Errorf("none of that name below %s: it may be built into the kernel, or not be built at all", m.dir)
	}
	return file, nil
}

func (m *modules) has(name string) bool {
	return slices.ContainsFunc(m.list, func(have module) bool { return have.name == name })
}

// add adds a module, after what it depends on.
func (m *modules) add(file string) error {
	name, unpacker, _ := moduleOf(file)
	if m.has(name) {
		return nil
	}
	image, err := readModule(file, unpacker)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	depends, err := dependencies(image)
	if err != nil {
		return fmt.Errorf("module %s: %w", file, err)
	}
	for _, other := range depends {
		if m.dir == "" || m.has(moduleName(other)) {
			continue // whoever names files names these too, or the kernel will say what is missing
		}
		needed, err := m.find(other)
		if err == nil {
			err = m.add(needed)
		}
		if err != nil {
			return fmt.Errorf("module %s, which depends on %s: %w", name, other, err)
		}
	}
	m.list = append(m.list, module{name, file, image})
	return nil
}

func readModule(file, unpacker string) ([]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil || unpacker == "" {
		return raw, err
	}
	cmd := exec.Command(unpacker, "-dqc")
	var complaints bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(raw), &complaints
	image, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w %s", file, err, strings.TrimSpace(complaints.String()))
	}
	return image, nil
}

// dependencies are the modules that one says it depends on, as modinfo shows them.
func dependencies(image []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("not a kernel module: %w", err)
	}
	section := f.Section(".modinfo")
	if f.Type != elf.ET_REL || section == nil {
		return nil, errors.New("not a kernel module: it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("not a kernel module: %w", err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			return slices.DeleteFunc(strings.Split(list, ","), func(name string) bool { return name == "" }), nil
		}
	}
	return nil, nil
}

// parametersOf are a module's on the kernel's command line, MODULE.NAME=VALUE, as modprobe
// passes them on.
func parametersOf(module, commandLine string) string {
	var list []string
	for word := range strings.FieldsSeq(commandLine) {
		if name, parameter, ok := strings.Cut(word, "."); ok && moduleName(name) == module {
			list = append(list, parameter)
		}
	}
	return strings.Join(list, " ")
}

// load loads a module into the kernel of the guest.
func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	defer f.Close()
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	name, _, _ := moduleOf(file)
	err = unix.FinitModule(int(f.Fd()), parametersOf(name, string(commandLine)), 0)
	if err == nil || errors.Is(err, unix.EEXIST) { // as another one has wanted it already
		return nil
	}
	errno, _ := err.(unix.Errno)
	return fmt.Errorf("module %s: the kernel refuses it: %s (%w); its last message: %s", filepath.Base(file), unix.ErrnoName(errno), err, lastMessage())
}

// lastMessage is the last line of the kernel's log.
func lastMessage() string {
	buffer := make([]byte, 4<<10)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buffer)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(buffer[:n])), "\n")
	return lines[len(lines)-1]
}

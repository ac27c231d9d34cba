package recording

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// PartFile is one of the files that an agent keeps a trace in.
type PartFile struct {
	Path    string
	Number  uint64 // in the order in which they were written, whatever the clock said
	Size    int64
	Changed time.Time
}

var partName = regexp.MustCompile(`^pinwatch-([0-9]{8,18})-[0-9]{8}T[0-9]{6}Z\.jsonl\.zst$`)

// PartName is the name of such a file.
func PartName(number uint64, begun time.Time) string {
	return fmt.Sprintf("pinwatch-%08d-%s.jsonl.zst", number, begun.UTC().Format("20060102T150405Z"))
}

// PartFiles lists those of a directory in their order. Other files are nobody's business.
func PartFiles(dir string) ([]PartFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []PartFile
	for _, entry := range entries {
		match := partName.FindStringSubmatch(entry.Name())
		if match == nil {
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // it is gone, or none of ours
		}
		number, _ := strconv.ParseUint(match[1], 10, 64) // of 18 digits at the most
		files = append(files, PartFile{filepath.Join(dir, entry.Name()), number, info.Size(), info.ModTime()})
	}
	slices.SortFunc(files, func(a, b PartFile) int { return cmp.Compare(a.Number, b.Number) })
	return files, nil
}

// readHeader reads a file's first line.
func readHeader(path string) (*Header, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in, err := expand(file)
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(in).ReadSlice('\n') // of 4096 bytes at the most
	if err != nil {
		return nil, err
	}
	h := parseHeader(line)
	if h == nil {
		return nil, fmt.Errorf("it does not begin with a header")
	}
	return h, nil
}

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// mostBytes bounds an image: what a small file unpacks to may be endless.
const mostBytes = 2 << 30

// cache is a directory with images, each in a directory named after its checksum, and with
// a file for everything that was fetched, which says what came of it.
type cache string

// entry is what came of something that was fetched.
type entry struct {
	Ref     string    `json:"ref"`
	Stamp   string    `json:"stamp,omitempty"`
	File    string    `json:"file"`
	SHA256  string    `json:"sha256"`
	Fetched time.Time `json:"fetched"`
}

func (s Store) cache() (cache, error) {
	dir := s.Dir
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no place to unpack it: %w", err)
		}
		dir = filepath.Join(user, "pinwatch", "images")
	}
	return cache(dir), os.MkdirAll(dir, 0o755)
}

func (c cache) entry(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(string(c), hex.EncodeToString(sum[:8])+".json")
}

// load returns the file of a kernel that was fetched before; "": there is none, and why
// says what is wrong with the one that there was.
func (c cache) load(src source) (file string, fetched time.Time, why error) {
	raw, err := os.ReadFile(c.entry(src.key))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fetched, nil
	}
	var e entry
	if err == nil {
		err = json.Unmarshal(raw, &e)
	}
	if err != nil {
		return "", fetched, fmt.Errorf("the cache cannot be read: %w", err)
	}
	if e.Stamp != src.stamp {
		return "", fetched, nil // the file is another one by now
	}
	file = filepath.Join(string(c), e.File)
	f, err := os.Open(file)
	if err != nil {
		return "", fetched, fmt.Errorf("the cache has lost it: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fetched, fmt.Errorf("the cache cannot be read: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != e.SHA256 {
		return "", fetched, fmt.Errorf("its checksum in the cache is wrong (%s is %.16s..., and was %.16s...)", file, got, e.SHA256)
	}
	return file, e.Fetched, nil
}

// candidate is a kernel that was unpacked, in a temporary file.
type candidate struct {
	name, file, sum string
	bytes           int64
}

// candidate unpacks what may be a kernel, and says why it is none.
func (c cache) candidate(name string, r io.Reader) (_ *candidate, err error) {
	f, err := os.CreateTemp(string(c), ".part-")
	if err != nil {
		return nil, err
	}
	k := &candidate{name: name, file: f.Name()}
	defer func() {
		f.Close()
		if err != nil {
			k.discard()
		}
	}()
	sum := sha256.New()
	whole := readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if err != io.EOF {
			err = damaged(err)
		}
		return n, err
	})
	if k.bytes, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(whole, mostBytes)); err != nil {
		return nil, err
	}
	if k.bytes == mostBytes {
		return nil, fmt.Errorf("more than %d GiB, which is no kernel", mostBytes>>30)
	}
	k.sum = hex.EncodeToString(sum.Sum(nil))
	if _, err := Arch(k.file); err != nil {
		return nil, err
	}
	return k, errors.Join(f.Chmod(0o644), f.Close())
}

// discard removes it.
func (k *candidate) discard() {
	if k != nil {
		os.Remove(k.file)
	}
}

// keep takes a kernel into the cache.
func (c cache) keep(src source, k *candidate) (string, error) {
	defer k.discard()
	e := entry{Ref: src.ref, Stamp: src.stamp, File: filepath.Join(k.sum[:16], k.name), SHA256: k.sum, Fetched: time.Now()}
	file := filepath.Join(string(c), e.File)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(k.file, file); err != nil {
		return "", err
	}
	raw, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(string(c), ".part-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return file, os.Rename(f.Name(), c.entry(src.key))
}

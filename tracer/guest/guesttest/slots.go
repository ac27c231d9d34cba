package guesttest

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// SlotsVariable names a directory in which each file stands for one guest that may run,
// where the tests of several packages run at a time. Whoever runs one has its file locked.
const SlotsVariable = "PINWATCH_GUEST_SLOTS"

// slots are as many guests as run at a time where nothing names a directory: -parallel.
var slots = sync.OnceValue(func() chan struct{} {
	n := runtime.GOMAXPROCS(0)
	if f := flag.Lookup("test.parallel"); f != nil {
		n = f.Value.(flag.Getter).Get().(int)
	}
	return make(chan struct{}, n)
})

// TakeSlot waits until one more guest may run. What it returns says that it has ended.
func TakeSlot() (free func()) {
	dir := os.Getenv(SlotsVariable)
	if dir == "" {
		slots() <- struct{}{}
		return func() { <-slots() }
	}
	for ; ; time.Sleep(100 * time.Millisecond) { // nobody can wait for one of several locks
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(files) == 0 {
			panic(SlotsVariable + "=" + dir + ": no files in it")
		}
		for _, name := range files {
			if file := lock(name); file != nil {
				return func() { file.Close() }
			}
		}
	}
}

// lock locks a file until it is closed; nil: somebody has.
func lock(name string) *os.File {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		file.Close()
		return nil
	}
	return file
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// files is how many descriptors the server has open.
func (t *trial) files() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", t.pid))
	return len(entries), err
}

// memory is a line of the server's status in bytes, such as VmRSS.
func (s *setting) memory(name string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, found := strings.CutPrefix(line, name+":"); found {
			size, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return size << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", name, s.pid)
}

// watched: without the server's process there is nothing to look at.
func (t *trial) watched() {
	if t.pid == 0 {
		t.skip("the server's process is not known (-pid)")
	}
}

// sameFiles notes the open files now; what it returns complains if there are more some time later.
func (t *trial) sameFiles(within time.Duration) func() {
	if t.pid == 0 {
		return func() {}
	}
	before, err := t.files()
	t.need(err, "the server's files")
	return func() {
		err := t.until(within, func() error {
			now, err := t.files()
			if err == nil && now > before+2 {
				return fmt.Errorf("the server has %d files open, %d before", now, before)
			}
			return err
		})
		if err != nil {
			t.complain("%v: %s", err, t.tally())
		}
	}
}

// tally counts the server's files by their kind.
func (t *trial) tally() string {
	kinds := map[string]int{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", t.pid))
	if err != nil {
		return err.Error()
	}
	for _, each := range links {
		name, err := os.Readlink(each)
		if err != nil {
			continue
		}
		kind, _, _ := strings.Cut(name, ":")
		if filepath.IsAbs(kind) {
			kind = filepath.Base(filepath.Dir(kind))
		}
		kinds[kind]++
	}
	return fmt.Sprint(kinds)
}

// growth samples the server's memory until it is asked, and says by how many bytes it was ever over the beginning.
func (t *trial) growth() func() int64 {
	before, err := t.memory("VmRSS")
	t.need(err, "the server's memory")
	asked, highest := make(chan struct{}), make(chan int64, 1)
	go func() {
		peak := before
		defer func() { highest <- peak - before }()
		for {
			if now, err := t.memory("VmRSS"); err == nil {
				peak = max(peak, now)
			}
			select {
			case <-asked:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(asked)
		return <-highest
	}
}

package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var guardChecks = []check{
	{name: "guard.loopback-only", run: guardLoopback},
	{name: "guard.threads-come-home", run: guardThreads},
	{name: "guard.no-descriptors-left", run: guardDescriptors},
}

// guardLoopback: the server listens on loopback addresses alone.
func guardLoopback(t *trial) {
	t.watched()
	t.fresh()
	inodes := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", t.pid))
	t.need(err, "the server's files")
	for _, each := range links {
		if name, err := os.Readlink(each); err == nil {
			inodes[strings.TrimSuffix(strings.TrimPrefix(name, "socket:["), "]")] = true
		}
	}
	found := 0
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", t.pid, table))
		t.need(err, "the table of sockets")
		for line := range strings.Lines(string(text)) {
			// The columns: number, local address, remote address, state (0A listens), …, inode.
			columns := strings.Fields(line)
			if len(columns) < 10 || columns[3] != "0A" || !inodes[columns[9]] {
				continue
			}
			found++
			if at, err := listening(columns[1]); err != nil || !at.IsLoopback() {
				t.complain("it listens on %s (%v), %v", columns[1], at, err)
			}
		}
	}
	if found == 0 {
		t.complain("no listening socket was found")
	}
}

// listening reads an address as the kernel prints it: words of four bytes in the machine's order, and the port.
func listening(column string) (netip.Addr, error) {
	text, _, _ := strings.Cut(column, ":")
	words, err := hex.DecodeString(text)
	if err != nil {
		return netip.Addr{}, err
	}
	for word := range slices.Chunk(words, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	at, _ := netip.AddrFromSlice(words)
	return at.Unmap(), nil
}

// guardThreads: a thread that went into a pod's network does not serve others from there.
func guardThreads(t *trial) {
	t.watched()
	t.over = spdyStreams
	f := t.forward(t.shared().pod, echoPort)
	for range 10 {
		t.lives(f, echoPort)
	}
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", t.pid))
	t.need(err, "the server's network")
	// Threads that end, or stay where they are for good, may be seen once; none may be seen for long.
	err = t.until(15*time.Second, func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", t.pid))
		for _, each := range tasks {
			if there, err := os.Readlink(each); err == nil && there != home {
				return fmt.Errorf("%s is %s, not %s", each, there, home)
			}
		}
		return err
	})
	if err != nil {
		t.complain("%v", err)
	}
}

// guardDescriptors: the server has no descriptor left for a while; once it has, it serves again.
func guardDescriptors(t *trial) {
	t.watched()
	c := t.shared()
	address, _ := t.fresh()
	t.same("before it", c.run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
	used, err := t.files()
	t.need(err, "the server's files")
	var old unix.Rlimit
	t.need(unix.Prlimit(t.pid, unix.RLIMIT_NOFILE, nil, &old), "the limit")
	low := unix.Rlimit{Cur: uint64(used + 15), Max: old.Max}
	t.need(unix.Prlimit(t.pid, unix.RLIMIT_NOFILE, &low, nil), "a low limit")
	restore := func() error { return unix.Prlimit(t.pid, unix.RLIMIT_NOFILE, &old, nil) }
	t.later(func() { restore() })
	var all []net.Conn
	for range 100 {
		if one, _, err := plug(t.ctx, address); err == nil {
			all = append(all, one)
			io.WriteString(one, "POST /exec/")
		}
	}
	time.Sleep(time.Second)
	for _, each := range all {
		each.Close()
	}
	began := time.Now()
	err = t.until(10*time.Second, func() error {
		got := c.run(t, spdyStreams, "echo", "fine")
		if got.code != 0 || got.stdout != "fine\n" {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	t.measure("serves again", time.Since(began).Seconds(), "s")
	if err != nil || time.Since(began) > 2*time.Second {
		t.complain("after %v: %v", time.Since(began), err)
	}
	t.need(restore(), "the old limit")
	err = t.until(30*time.Second, func() error {
		made, err := t.podOf(t.ctx, pb.NamespaceMode_POD)
		if err == nil {
			err = made.remove()
		}
		return err
	})
	if err != nil {
		t.complain("no pod can be made afterwards: %v", err)
	}
}

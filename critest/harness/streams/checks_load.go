package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var loadChecks = []check{
	{name: "load.slow-heads", limit: 5 * time.Minute, run: loadSlowHeads},
	{name: "load.large-head", run: loadLargeHead},
	{name: "load.no-streams", full: true, run: loadNoStreams},
	{name: "load.stalled-reader", both: true, limit: 5 * time.Minute, run: loadStalled},
	{name: "load.stalled-forward", both: true, limit: 5 * time.Minute, run: loadStalledForward},
}

// manyFiles lets this process open as many as the kernel allows.
func manyFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// loadSlowHeads: many connections send a byte now and then; an exec is quick all the same, and they are closed in time.
func loadSlowHeads(t *trial) {
	t.need(manyFiles(), "the limit of open files")
	c := t.shared()
	address, _ := t.fresh()
	t.same("before it", c.run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
	after := t.sameFiles(20 * time.Second)
	var grown func() int64
	if t.pid != 0 {
		grown = t.growth()
	}
	var all []net.Conn
	for range t.slow {
		one, _, err := plug(t.ctx, address)
		if err != nil {
			continue
		}
		defer one.Close()
		io.WriteString(one, "POST /exec/")
		all = append(all, one)
	}
	began := time.Now()
	var worst time.Duration
	closed := 0
	for round := range 5 {
		for range 5 {
			asked := time.Now()
			t.same("meanwhile", c.run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
			worst = max(worst, time.Since(asked))
		}
		var wait sync.WaitGroup
		var lock sync.Mutex
		closed = 0
		for _, each := range all {
			wait.Go(func() {
				io.WriteString(each, "x")
				each.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				_, err := io.Copy(io.Discard, each)
				if !timedOut(err) {
					lock.Lock()
					closed++
					lock.Unlock()
				}
			})
		}
		wait.Wait()
		if closed == len(all) {
			t.measure("all slow connections are closed", time.Since(began).Seconds(), "s")
			break
		}
		if round < 4 {
			time.Sleep(3500 * time.Millisecond)
		}
	}
	t.measure("slow connections", float64(len(all)), "")
	t.measure("the slowest exec meanwhile", worst.Seconds(), "s")
	if closed < len(all) {
		t.complain("%d of %d slow connections are still open after %v", len(all)-closed, len(all), time.Since(began))
	}
	if worst > time.Second {
		t.complain("an exec took %v meanwhile", worst)
	}
	if grown != nil {
		t.measure("growth", float64(grown())/(1<<20), "MiB")
	}
	after()
}

// loadLargeHead: a head of 1 MiB is refused before it is read whole.
func loadLargeHead(t *trial) {
	address, path := t.fresh()
	connection, _, err := plug(t.ctx, address)
	t.need(err, "connect")
	defer connection.Close()
	fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: x\r\n", path)
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	var sent int
	for range 1 << 10 {
		n, err := fmt.Fprintf(connection, "X-Fill: %s\r\n", strings.Repeat("y", 1000))
		sent += n
		if err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	t.measure("bytes of the head that were taken", float64(sent), "")
	io.WriteString(connection, "\r\n")
	answer := make([]byte, 1000)
	count, err := connection.Read(answer)
	if line := string(answer[:count]); err == nil && strings.Contains(line, " 101 ") {
		t.complain("a head of %d bytes is taken: %s", sent, short(line))
	}
	t.same("after it", t.shared().run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
}

// loadNoStreams: who upgrades and opens no streams is closed after 30 s.
func loadNoStreams(t *trial) {
	address, _ := t.fresh()
	w, err := upgrade(t.ctx, address, "v4.channel.k8s.io")
	t.need(err, "upgrade")
	defer w.Close()
	began := time.Now()
	if err := w.closes(45 * time.Second); err != nil {
		t.complain("%v", err)
	}
	if took := time.Since(began); took < 25*time.Second {
		t.complain("closed after %v already", took)
	}
}

// stand lets a reader stand still and watches the server's memory.
func (t *trial) stand() {
	if t.pid == 0 {
		time.Sleep(t.stall)
		return
	}
	grown := t.growth()
	time.Sleep(t.stall)
	most := grown()
	t.measure(fmt.Sprintf("growth while a reader stands still for %v", t.stall), float64(most)/(1<<20), "MiB")
	if most > t.room {
		t.complain("the server grew by %.1f MiB", float64(most)/(1<<20))
	}
}

// loadStalled: a command writes without an end, and nobody reads.
func loadStalled(t *trial) {
	c := t.shared()
	t.same("before it", c.run(t, t.over, "echo", "fine"), 0, "fine\n", "")
	after := t.sameFiles(20 * time.Second)
	address, err := c.execURL(t.ctx, outputs("dd", "if=/dev/zero", "bs=64k"))
	t.need(err, "a URL")
	var grown func() int64
	if t.pid != 0 {
		grown = t.growth()
	}
	connection := t.unread(address, "error", "stdout", "stderr")
	time.Sleep(time.Second)
	if grown != nil {
		t.measure("growth in its first second", float64(grown())/(1<<20), "MiB")
	}
	t.stand()
	t.same("meanwhile", c.run(t, t.over, "echo", "fine"), 0, "fine\n", "")
	connection.SetLinger(0)
	connection.Close()
	// Nobody reads now; the process goes with a broken pipe or goes on into nothing, and is ended here then.
	time.Sleep(2 * time.Second)
	left, err := c.sync(t.ctx, "sh", "-c", "ps -o args | grep -c '^dd if=/dev/zer[o]'; killall dd 2>/dev/null; true")
	if err != nil {
		t.complain("%v", err)
	}
	outlived, err := strconv.Atoi(strings.TrimSpace(left))
	t.need(err, "the count of processes")
	t.measure("processes that outlive their client", float64(outlived), "")
	after()
}

// loadStalledForward: the same for a download through a port-forward.
func loadStalledForward(t *trial) {
	c := t.shared()
	f := t.forward(c.pod, sourcePort, echoPort)
	t.lives(f, echoPort)
	after := t.sameFiles(20 * time.Second)
	far, err := f.dial(sourcePort)
	t.need(err, "the local port")
	fmt.Fprintln(far, 1<<40)
	time.Sleep(500 * time.Millisecond)
	t.stand()
	far.SetLinger(0)
	far.Close()
	t.lives(f, echoPort)
	after()
}

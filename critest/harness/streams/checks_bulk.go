package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net"
	"os/exec"
	"time"
)

var bulkChecks = []check{
	{name: "forward.download", both: true, limit: 10 * time.Minute, run: forwardDownload},
	{name: "forward.upload", both: true, limit: 10 * time.Minute, run: forwardUpload},
	{name: "forward.throughput", limit: 10 * time.Minute, run: forwardThroughput},
}

// forwardDownload: a line asks for many bytes, both sides half-close, and every byte is right.
func forwardDownload(t *trial) {
	f := t.forward(t.shared().pod, sourcePort)
	c, err := f.dial(sourcePort)
	t.need(err, "the local port")
	digest := sha256.New()
	took := t.download(c, t.size, digest)
	t.measure(fmt.Sprintf("%d MiB down through the library", t.size>>20), rate(t.size, took), "MB/s")
	if want := sourceDigest(t.size); fmt.Sprintf("%x", digest.Sum(nil)) != want {
		t.complain("the digest is not the one of what was sent")
	}
}

func rate(size int64, took time.Duration) float64 { return float64(size) / 1e6 / took.Seconds() }

// download asks the source for bytes and reads them to the end.
func (t *trial) download(c *net.TCPConn, size int64, digest hash.Hash) time.Duration {
	defer c.Close()
	began := time.Now()
	fmt.Fprintln(c, size)
	t.need(c.CloseWrite(), "half-close")
	var to io.Writer = io.Discard
	if digest != nil {
		to = digest
	}
	got, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{c}, make([]byte, 256<<10))
	if err != nil || got != size {
		t.fail("%d of %d bytes came, %v", got, size, err)
	}
	return time.Since(began)
}

func forwardUpload(t *trial) {
	f := t.forward(t.shared().pod, sumPort)
	c, err := f.dial(sumPort)
	t.need(err, "the local port")
	began := time.Now()
	got, err := exchange(c, io.LimitReader(noise(4), t.size), 10*time.Minute)
	t.measure(fmt.Sprintf("%d MiB up through the library", t.size>>20), rate(t.size, time.Since(began)), "MB/s")
	if want := fmt.Sprintf("%d %s <nil>\n", t.size, digestOf(4, t.size)); string(got) != want {
		t.complain("the service got %q, not %q, %v", got, want, err)
	}
}

// forwardThroughput compares the server alone, read by a client that does nothing else, with a relay between sockets.
func forwardThroughput(t *trial) {
	c := t.shared()
	t.beside(t.self, "inside", "serve", "bare")
	t.beside(t.self, "inside", "relay", "127.0.0.1:7091", fmt.Sprint("127.0.0.1:", sourcePort), "copy")
	t.beside(t.self, "inside", "relay", "127.0.0.1:7092", fmt.Sprint("127.0.0.1:", sourcePort), "splice")
	const rounds = 3
	var server, copied, spliced time.Duration
	for range rounds {
		copied += t.relayed(7091)
		spliced += t.relayed(7092)
		server += t.lean(c.pod)
	}
	total := t.size * rounds
	t.measure("forwarded", rate(total, server), "MB/s")
	t.measure("relay that copies", rate(total, copied), "MB/s")
	t.measure("relay within the kernel", rate(total, spliced), "MB/s")
	t.measure("forwarded against the relay that copies", copied.Seconds()/server.Seconds(), "x")
	t.measure("forwarded against the relay within the kernel", spliced.Seconds()/server.Seconds(), "x")
}

// beside runs a program on the host for as long as the check.
func (t *trial) beside(program string, arguments ...string) {
	ctx, cancel := context.WithCancel(t.ctx)
	command := exec.CommandContext(ctx, program, arguments...)
	t.need(command.Start(), "%s", program)
	t.later(func() {
		cancel()
		command.Wait()
	})
}

func (t *trial) relayed(port int) time.Duration {
	var c *net.TCPConn
	t.need(t.until(5*time.Second, func() (err error) {
		c, err = local(port)
		return err
	}), "the relay")
	return t.download(c, t.size, nil)
}

// lean downloads over SPDY by hand.
func (t *trial) lean(p *pod) time.Duration {
	address, err := p.forwardURL(t.ctx)
	t.need(err, "a URL")
	w, err := upgrade(t.ctx, address, "portforward.k8s.io")
	t.need(err, "port-forward")
	defer w.Close()
	began := time.Now()
	var id uint32
	for _, kind := range []string{"error", "data"} {
		id, err = w.create("streamtype", kind, "port", fmt.Sprint(sourcePort), "requestid", "0")
		t.need(err, "stream %s", kind)
		got, err := w.next()
		t.need(err, "the reply to stream %s", kind)
		if got.kind != synReply || got.id != id {
			t.fail("stream %s is answered by a frame of kind %d for stream %d", kind, got.kind, got.id)
		}
	}
	t.need(w.send(id, fin, fmt.Appendf(nil, "%d\n", t.size)), "the request")
	var got int64
	w.SetReadDeadline(time.Now().Add(5 * time.Minute))
	for {
		flags, stream, size, err := w.skip()
		t.need(err, "after %d of %d bytes", got, t.size)
		if stream == id {
			got += size
			if flags&fin != 0 {
				break
			}
		}
	}
	if got != t.size {
		t.fail("%d of %d bytes came", got, t.size)
	}
	return time.Since(began)
}

// skip reads a frame and throws away what it carries.
func (w *wire) skip() (flags byte, stream uint32, size int64, err error) {
	head, err := w.reader.Peek(8)
	if err != nil {
		return 0, 0, 0, err
	}
	if head[0]&0x80 == 0 {
		stream = uint32(head[0])<<24 | uint32(head[1])<<16 | uint32(head[2])<<8 | uint32(head[3])
	}
	flags, size = head[4], int64(head[5])<<16|int64(head[6])<<8|int64(head[7])
	_, err = w.reader.Discard(8 + int(size))
	return flags, stream, size, err
}

package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/portforward"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
)

var forwardChecks = []check{
	{name: "forward.echo", both: true, run: forwardEcho},
	{name: "forward.half-close", both: true, run: forwardHalfClose},
	{name: "forward.slow-answer", both: true, run: forwardSlowAnswer},
	{name: "forward.many", both: true, run: forwardMany},
	{name: "forward.one-stalled", both: true, run: forwardStalled},
	{name: "forward.refused", both: true, run: forwardRefused},
	{name: "forward.loopback-v6", both: true, run: forwardSix},
	{name: "forward.own-network", both: true, run: forwardOwnNetwork},
	{name: "forward.host-network", both: true, run: forwardHost},
	{name: "forward.reset", both: true, run: forwardReset},
	{name: "forward.headers", both: true, run: forwardHeaders},
	{name: "forward.pod-stops", both: true, run: forwardPodStops},
	{name: "forward.often", both: true, run: forwardOften},
	{name: "forward.request", run: forwardRequest},
}

func forwardEcho(t *trial) {
	f := t.forward(t.shared().pod, echoPort)
	for _, size := range []int64{0, 1, 100, 1 << 16, 5 << 20} {
		c, err := f.dial(echoPort)
		t.need(err, "the local port")
		t.echoes(c, size)
	}
}

// forwardHalfClose: the end of what the client sends reaches the server, whose answer comes after it.
func forwardHalfClose(t *trial) {
	f := t.forward(t.shared().pod, sumPort)
	for _, size := range []int64{0, 10, 8 << 20} {
		c, err := f.dial(sumPort)
		t.need(err, "the local port")
		got, err := exchange(c, io.LimitReader(noise(4), size), 30*time.Second)
		want := fmt.Sprintf("%d %s <nil>\n", size, digestOf(4, size))
		if string(got) != want {
			t.complain("%d bytes up: %q, not %q, %v", size, got, want, err)
		}
	}
}

// forwardSlowAnswer: the client has ended its side, and the answer takes three seconds more.
func forwardSlowAnswer(t *trial) {
	f := t.forward(t.shared().pod, latePort)
	far, err := f.dial(latePort)
	t.need(err, "the local port")
	got, err := exchange(far, strings.NewReader("request"), 20*time.Second)
	if string(got) != "late\n" {
		t.complain("the answer is %q, %v", got, err)
	}
}

func forwardMany(t *trial) {
	const many = 50
	f := t.forward(t.shared().pod, echoPort, sumPort)
	began := time.Now()
	var wait sync.WaitGroup
	for i := range many {
		wait.Go(func() {
			port, size := []int{echoPort, sumPort}[i%2], int64(100000+i)
			c, err := f.dial(port)
			if err != nil {
				t.complain("connection %d: %v", i, err)
				return
			}
			got, err := exchange(c, io.LimitReader(noise(byte(i)), size), 60*time.Second)
			want := fmt.Sprintf("%d %s <nil>\n", size, digestOf(byte(i), size))
			if port == echoPort {
				got, want = fmt.Appendf(nil, "%x", sha256.Sum256(got)), digestOf(byte(i), size)
			}
			if string(got) != want {
				t.complain("connection %d: %q, not %q, %v", i, got, want, err)
			}
		})
	}
	wait.Wait()
	t.measure("50 connections at once", time.Since(began).Seconds(), "s")
}

// forwardStalled: a connection whose service reads nothing does not hold up another. The library's own queues take part
// in that, so only as much is sent as the sockets and the server can take.
func forwardStalled(t *trial) {
	f := t.forward(t.shared().pod, echoPort, mutePort)
	stuck, err := f.dial(mutePort)
	t.need(err, "the local port")
	defer stuck.Close()
	_, err = io.CopyN(stuck, noise(1), 1<<20)
	t.need(err, "what nobody reads")
	c, err := f.dial(echoPort)
	t.need(err, "the local port")
	t.echoes(c, 1<<20)
}

// forwardRefused: the error text makes the library close everything; that is its way.
func forwardRefused(t *trial) {
	c := t.shared()
	f := t.forward(c.pod, closedPort)
	far, err := f.dial(closedPort)
	t.need(err, "the local port")
	got, _ := exchange(far, strings.NewReader(""), 20*time.Second)
	if len(got) > 0 {
		t.complain("bytes from nowhere: %q", got)
	}
	select {
	case err := <-f.ended:
		if !errors.Is(err, portforward.ErrLostConnectionToPod) {
			t.complain("the library ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.complain("the library did not learn of the refusal")
	}
	text := t.pair(c.pod, closedPort)
	for _, part := range []string{fmt.Sprint(closedPort), c.pod.id, "refused"} {
		if !strings.Contains(text, part) {
			t.complain("the error text does not name %s: %q", part, text)
		}
	}
}

// pair opens one connection by hand, and returns the text of the error stream.
func (t *trial) pair(p *pod, port int) string {
	connection := t.dialForward(p)
	defer connection.Close()
	_, failure := t.open(connection, fmt.Sprint(port), "0")
	return failure()
}

func (t *trial) dialForward(p *pod) httpstream.Connection {
	address, err := p.forwardURL(t.ctx)
	t.need(err, "a URL")
	dial, err := dialer(t.over, address)
	t.need(err, "a dialer")
	connection, _, err := dial.Dial(portforward.PortForwardProtocolV1Name)
	t.need(err, "port-forward")
	return connection
}

// open makes the two streams of a connection; failure waits for the text.
func (t *trial) open(connection httpstream.Connection, port, id string) (httpstream.Stream, func() string) {
	kinds := map[string]httpstream.Stream{}
	for _, kind := range []string{"error", "data"} {
		one, err := connection.CreateStream(http.Header{"streamType": {kind}, "port": {port}, "requestID": {id}})
		t.need(err, "stream %s", kind)
		kinds[kind] = one
	}
	kinds["error"].Close()
	return kinds["data"], func() string {
		text := make(chan string, 1)
		go func() {
			all, err := io.ReadAll(kinds["error"])
			if err != nil {
				all = fmt.Appendf(all, " (%v)", err)
			}
			text <- string(all)
		}()
		select {
		case got := <-text:
			return got
		case <-time.After(20 * time.Second):
			t.complain("the error stream does not end")
			return ""
		}
	}
}

func forwardSix(t *trial) {
	f := t.forward(t.shared().pod, sixPort)
	c, err := f.dial(sixPort)
	t.need(err, "the local port")
	t.echoes(c, 100000)
}

// forwardOwnNetwork: a service on the host's loopback alone is not reached through a pod.
func forwardOwnNetwork(t *trial) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	t.need(err, "a service on the host")
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			t.complain("the connection left the pod's network")
			c.Close()
		}
	}()
	if text := t.pair(t.shared().pod, listener.Addr().(*net.TCPAddr).Port); !strings.Contains(text, "refused") {
		t.complain("the error text: %q", text)
	}
}

func forwardHost(t *trial) {
	f := t.forward(t.onHost().pod, echoPort+onHostBy, sixPort+onHostBy)
	for _, port := range []int{echoPort, sixPort} {
		c, err := f.dial(port + onHostBy)
		t.need(err, "the local port")
		t.echoes(c, 100000)
	}
}

// forwardReset: a service that resets its connection is a normal end; the other connections live on.
func forwardReset(t *trial) {
	c := t.shared()
	f := t.forward(c.pod, resetPort, echoPort)
	for range 5 {
		far, err := f.dial(resetPort)
		t.need(err, "the local port")
		far.SetDeadline(time.Now().Add(15 * time.Second))
		fmt.Fprintln(far, "hello")
		answer, err := bufio.NewReader(far).ReadString('\n')
		if answer != "answer to hello\n" {
			t.complain("before the reset: %q, %v", answer, err)
		}
		if _, err := io.Copy(io.Discard, far); timedOut(err) {
			t.complain("the reset is not passed on: %v", err)
		}
		far.Close()
	}
	time.Sleep(200 * time.Millisecond)
	t.lives(f, echoPort)
}

// forwardHeaders: a stream with a bad port is refused alone.
func forwardHeaders(t *trial) {
	connection := t.dialForward(t.shared().pod)
	defer connection.Close()
	for _, headers := range []http.Header{
		{"streamType": {"error"}, "port": {"0"}, "requestID": {"100"}},
		{"streamType": {"error"}, "port": {"65536"}, "requestID": {"101"}},
		{"streamType": {"error"}, "port": {"-1"}, "requestID": {"102"}},
		{"streamType": {"error"}, "port": {"2147483648"}, "requestID": {"103"}},
		{"streamType": {"error"}, "port": {"http"}, "requestID": {"104"}},
		{"streamType": {"error"}, "requestID": {"105"}},
		{"streamType": {"other"}, "port": {"80"}, "requestID": {"106"}},
		{"port": {"80"}, "requestID": {"107"}},
	} {
		if _, err := connection.CreateStream(headers); err == nil {
			t.complain("a stream with %v is taken", headers)
		}
	}
	data, failure := t.open(connection, fmt.Sprint(echoPort), "any text")
	fmt.Fprint(data, "hello")
	data.Close()
	got, err := io.ReadAll(data)
	if string(got) != "hello" {
		t.complain("after the bad ones: %q, %v", got, err)
	}
	if text := failure(); text != "" {
		t.complain("error text: %q", text)
	}
}

func forwardPodStops(t *trial) {
	c := t.own(wish{command: []string{within, "inside", "serve", "pod"}})
	t.need(t.until(10*time.Second, func() error {
		_, err := c.sync(t.ctx, "cat", "/tmp/ready")
		return err
	}), "the service")
	f := t.forward(c.pod, echoPort)
	far, err := f.dial(echoPort)
	t.need(err, "the local port")
	defer far.Close()
	fmt.Fprintln(far, "hello")
	far.SetDeadline(time.Now().Add(20 * time.Second))
	reader := bufio.NewReader(far)
	if line, err := reader.ReadString('\n'); line != "hello\n" {
		t.complain("before the stop: %q, %v", line, err)
	}
	t.need(c.stop(t.ctx), "StopContainer")
	if _, err := reader.ReadString('\n'); err == nil {
		t.complain("bytes from a stopped pod")
	} else if timedOut(err) {
		t.complain("the connection outlives its pod")
	}
	_, err = c.runtime.StopPodSandbox(t.ctx, &pb.StopPodSandboxRequest{PodSandboxId: c.pod.id})
	t.need(err, "StopPodSandbox")
	if _, err := c.pod.forwardURL(t.ctx); err == nil {
		t.complain("a stopped pod takes a port-forward")
	}
}

// forwardOften: many connections one after another leave nothing behind.
func forwardOften(t *trial) {
	f := t.forward(t.shared().pod, echoPort)
	t.lives(f, echoPort)
	after := t.sameFiles(10 * time.Second)
	began := time.Now()
	for i := range 500 {
		if time.Since(began) > time.Minute {
			t.fail("only %d connections in a minute", i)
		}
		c, err := f.dial(echoPort)
		t.need(err, "the local port")
		t.echoes(c, 10)
	}
	after()
}

func forwardRequest(t *trial) {
	for what, each := range map[string]struct {
		id   string
		code codes.Code
	}{"no id": {"", codes.InvalidArgument}, "unknown id": {"no-such-pod", codes.NotFound}} {
		_, err := t.runtime.PortForward(t.ctx, &pb.PortForwardRequest{PodSandboxId: each.id})
		if status.Code(err) != each.code {
			t.complain("%s: %v, not %v", what, err, each.code)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// forwarder is the client library's port-forward.
type forwarder struct {
	// ports maps a port of the pod to the local one.
	ports map[int]int
	stop  chan struct{}
	ended chan error
}

func (p *pod) forwardURL(ctx context.Context, ports ...int32) (string, error) {
	reply, err := p.runtime.PortForward(ctx, &pb.PortForwardRequest{PodSandboxId: p.id, Port: ports})
	if err != nil {
		return "", fmt.Errorf("PortForward: %w", err)
	}
	return reply.Url, nil
}

func dialer(over transport, address string) (httpstream.Dialer, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if over == webSocket {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(target, &rest.Config{})
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		return nil, err
	}
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target), nil
}

// forward listens on a local port for each port of the pod.
func (t *trial) forward(p *pod, ports ...int) *forwarder {
	address, err := p.forwardURL(t.ctx)
	t.need(err, "a URL")
	dial, err := dialer(t.over, address)
	t.need(err, "a dialer")
	var wanted []string
	for _, port := range ports {
		wanted = append(wanted, fmt.Sprintf("0:%d", port))
	}
	f := &forwarder{ports: map[int]int{}, stop: make(chan struct{}), ended: make(chan error, 1)}
	ready := make(chan struct{})
	library, err := portforward.NewOnAddressesForStreaming(dial, []string{"127.0.0.1"}, wanted, f.stop, ready, io.Discard, io.Discard)
	t.need(err, "a forwarder")
	go func() { f.ended <- library.ForwardPorts() }()
	t.later(func() { close(f.stop) })
	select {
	case <-ready:
	case err := <-f.ended:
		t.fail("port-forward: %v", err)
	case <-time.After(20 * time.Second):
		t.fail("port-forward is not ready")
	}
	listening, err := library.GetPorts()
	t.need(err, "the ports")
	for _, each := range listening {
		f.ports[int(each.Remote)] = int(each.Local)
	}
	return f
}

// dial opens a connection to a forwarded port.
func (f *forwarder) dial(port int) (*net.TCPConn, error) {
	return local(f.ports[port])
}

// local opens a connection to a port of this machine, for as long as a check may take.
func local(port int) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), 10*time.Second)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// exchange sends something, closes its side, and reads to the end.
func exchange(c *net.TCPConn, request io.Reader, limit time.Duration) ([]byte, error) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, request)
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		return got, err
	}
	return got, <-sent
}

// lives: the forwarder still serves.
func (t *trial) lives(f *forwarder, port int) {
	select {
	case err := <-f.ended:
		t.complain("the library closed the whole connection: %v", err)
		return
	default:
	}
	c, err := f.dial(port)
	t.need(err, "the local port")
	t.echoes(c, 1000)
}

// echoes sends and gets back so many bytes, then ends.
func (t *trial) echoes(c *net.TCPConn, size int64) {
	want := make([]byte, size)
	noise(9).Read(want)
	got, err := exchange(c, io.LimitReader(noise(9), size), 60*time.Second)
	if err != nil || string(got) != string(want) {
		t.complain("echo: %d of %d bytes, %d right, %v", len(got), size, agreeing(string(got), want), err)
	}
}

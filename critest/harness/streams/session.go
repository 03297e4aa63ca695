package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	codes "k8s.io/client-go/util/exec"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// asked is what a session shall be.
type asked struct {
	command        []string
	stdin          io.Reader
	stdout, stderr io.Writer
	tty            bool
	sizes          remotecommand.TerminalSizeQueue
}

func (a asked) options() remotecommand.StreamOptions {
	return remotecommand.StreamOptions{Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, Tty: a.tty, TerminalSizeQueue: a.sizes}
}

// stream is one session with the client library.
func stream(ctx context.Context, over transport, address string, options remotecommand.StreamOptions) error {
	var executor remotecommand.Executor
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	if over == webSocket {
		executor, err = remotecommand.NewWebSocketExecutor(&rest.Config{}, http.MethodGet, address)
	} else {
		executor, err = remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, target)
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, options)
}

// execURL asks for a session.
func (c *container) execURL(ctx context.Context, a asked) (string, error) {
	reply, err := c.runtime.Exec(ctx, &pb.ExecRequest{ContainerId: c.id, Cmd: a.command, Tty: a.tty,
		Stdin: a.stdin != nil, Stdout: a.stdout != nil, Stderr: a.stderr != nil})
	if err != nil {
		return "", fmt.Errorf("Exec: %w", err)
	}
	return reply.Url, nil
}

func (c *container) exec(ctx context.Context, over transport, a asked) error {
	address, err := c.execURL(ctx, a)
	if err != nil {
		return err
	}
	return stream(ctx, over, address, a.options())
}

func (c *container) attachURL(ctx context.Context, a asked) (string, error) {
	reply, err := c.runtime.Attach(ctx, &pb.AttachRequest{ContainerId: c.id, Tty: a.tty,
		Stdin: a.stdin != nil, Stdout: a.stdout != nil, Stderr: a.stderr != nil})
	if err != nil {
		return "", fmt.Errorf("Attach: %w", err)
	}
	return reply.Url, nil
}

func (c *container) attach(ctx context.Context, over transport, a asked) error {
	address, err := c.attachURL(ctx, a)
	if err != nil {
		return err
	}
	return stream(ctx, over, address, a.options())
}

// outcome is what came of a command.
type outcome struct {
	stdout, stderr string
	// code is -1 where the session failed.
	code int
	err  error
}

func (o outcome) String() string {
	return fmt.Sprintf("code %d, stdout %s, stderr %s, error %v", o.code, short(o.stdout), short(o.stderr), o.err)
}

// short is the beginning of a text, quoted.
func short(text string) string {
	if len(text) > 200 {
		return fmt.Sprintf("%q… (%d bytes)", text[:180], len(text))
	}
	return fmt.Sprintf("%q", text)
}

// codeOf is the exit code that the library tells, or -1.
func codeOf(err error) int {
	var ended codes.CodeExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended):
		return ended.Code
	}
	return -1
}

// run runs a command to its end.
func (c *container) run(t *trial, over transport, command ...string) outcome {
	return c.feed(t, over, nil, command...)
}

// feed runs a command that reads what it is given.
func (c *container) feed(t *trial, over transport, stdin io.Reader, command ...string) outcome {
	var stdout, stderr bytes.Buffer
	err := c.exec(t.ctx, over, asked{command: command, stdin: stdin, stdout: &stdout, stderr: &stderr})
	return outcome{stdout.String(), stderr.String(), codeOf(err), err}
}

// same complains of an outcome that is not as it should be.
func (t *trial) same(what string, got outcome, code int, stdout, stderr string) {
	if got.code != code || got.stdout != stdout || got.stderr != stderr {
		t.complain("%s: want code %d, stdout %s, stderr %s; got %s", what, code, short(stdout), short(stderr), got)
	}
}

// negotiate opens a SPDY connection whose streams the check makes by itself.
func negotiate(ctx context.Context, address string, protocols ...string) (httpstream.Connection, string, error) {
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		return nil, "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, nil)
	if err != nil {
		return nil, "", err
	}
	return spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, request, protocols...)
}

// gathered is a writer that many may use, and that tells when something came.
type gathered struct {
	lock   sync.Mutex
	buffer bytes.Buffer
	came   chan struct{}
}

func newGathered() *gathered { return &gathered{came: make(chan struct{}, 1)} }

func (g *gathered) Write(data []byte) (int, error) {
	g.lock.Lock()
	defer g.lock.Unlock()
	select {
	case g.came <- struct{}{}:
	default:
	}
	return g.buffer.Write(data)
}

func (g *gathered) String() string {
	g.lock.Lock()
	defer g.lock.Unlock()
	return g.buffer.String()
}

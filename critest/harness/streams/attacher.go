package main

import (
	"context"
	"io"
	"strings"
	"time"
)

// attacher is one client of attach.
type attacher struct {
	*gathered
	keys   *io.PipeWriter
	cancel context.CancelFunc
	ended  chan error
}

// attach begins a session. With keys its stdin is open; a tty has no stderr.
func (t *trial) attach(c *container, keys, tty bool) *attacher {
	ctx, cancel := context.WithCancel(t.ctx)
	made := &attacher{gathered: newGathered(), cancel: cancel, ended: make(chan error, 1)}
	a := asked{stdout: made.gathered, tty: tty}
	if keys {
		reader, writer := io.Pipe()
		a.stdin, made.keys = reader, writer
		t.later(func() { writer.Close() })
	}
	if !tty {
		a.stderr = io.Discard
	}
	t.later(cancel)
	go func() { made.ended <- c.attach(ctx, t.over, a) }()
	return made
}

// live waits until something came, since there is no other sign of an attached client.
func (t *trial) live(a *attacher) {
	select {
	case <-a.came:
	case err := <-a.ended:
		t.fail("attach ended at once: %v", err)
	case <-time.After(15 * time.Second):
		t.fail("an attached client gets nothing")
	}
}

// enter sends a line to the container's stdin.
func (t *trial) enter(a *attacher, text string) {
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(a.keys, text)
		written <- err
	}()
	select {
	case err := <-written:
		t.need(err, "stdin")
	case <-time.After(15 * time.Second):
		t.fail("nobody takes %q", text)
	}
}

// over waits for the end of the session.
func (t *trial) overWithin(a *attacher, limit time.Duration) bool {
	select {
	case err := <-a.ended:
		if err != nil {
			t.complain("attach ended with %v", err)
		}
		return true
	case <-time.After(limit):
		t.complain("attach does not end within %v; so far %s", limit, short(a.String()))
		return false
	}
}

// told is what came after the last tick.
func told(output string) string {
	for {
		_, rest, found := strings.Cut(output, "tick\n")
		if !found {
			return output
		}
		output = rest
	}
}

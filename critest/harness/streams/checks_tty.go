package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/client-go/tools/remotecommand"
)

var ttyChecks = []check{
	{name: "tty.size-from-the-first-byte", both: true, run: ttyFirstSize},
	{name: "tty.resize", both: true, run: ttyResize},
	{name: "tty.terminal", both: true, run: ttyTerminal},
	{name: "tty.interrupt", both: true, run: ttyInterrupt},
	{name: "tty.start-fails", both: true, run: ttyStartFails},
}

// sizes is a queue of window sizes.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, more := <-s
	if !more {
		return nil
	}
	return &size
}

func sized(width, height uint16) sizes {
	queue := make(sizes, 200)
	queue <- remotecommand.TerminalSize{Width: width, Height: height}
	return queue
}

// terminal is a session with a tty.
type terminal struct {
	*gathered
	keys  *io.PipeWriter
	sizes sizes
	ended chan error
}

func (t *trial) terminal(c *container, queue sizes, command ...string) *terminal {
	reader, writer := io.Pipe()
	made := &terminal{gathered: newGathered(), keys: writer, sizes: queue, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.ctx)
	t.later(func() {
		cancel()
		writer.Close()
	})
	a := asked{command: command, stdin: reader, stdout: made.gathered, tty: true, sizes: queue}
	go func() {
		if command == nil {
			made.ended <- c.attach(ctx, t.over, a)
		} else {
			made.ended <- c.exec(ctx, t.over, a)
		}
	}()
	return made
}

// types sends keys.
func (t *trial) types(on *terminal, keys string) {
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(on.keys, keys)
		written <- err
	}()
	select {
	case err := <-written:
		t.need(err, "keys")
	case <-time.After(15 * time.Second):
		t.fail("nobody takes the keys %q; the screen: %s", keys, short(on.String()))
	}
}

// shows waits for a text on the screen.
func (t *trial) shows(on *terminal, text string) {
	err := t.until(10*time.Second, func() error {
		if !strings.Contains(on.String(), text) {
			return fmt.Errorf("no %q on the screen", text)
		}
		return nil
	})
	if err != nil {
		t.fail("%v: %s", err, short(on.String()))
	}
}

// ends waits for the end of a terminal's session.
func (t *trial) exits(on *terminal, code int) {
	select {
	case err := <-on.ended:
		if codeOf(err) != code {
			t.complain("ended with %v, not %d; the screen: %s", err, code, short(on.String()))
		}
	case <-time.After(10 * time.Second):
		t.complain("does not end; the screen: %s", short(on.String()))
	}
}

func ttyFirstSize(t *trial) {
	const tries = 20
	c := t.shared()
	right := 0
	var wrong string
	for i := range tries {
		width, height := uint16(80+i), uint16(30+i)
		on := t.terminal(c, sized(width, height), "stty", "size")
		t.exits(on, 0)
		if on.String() == fmt.Sprintf("%d %d\r\n", height, width) {
			right++
		} else {
			wrong = on.String()
		}
	}
	t.measure("sizes right from the first byte, of 20", float64(right), "")
	if right != tries {
		t.complain("%d of %d were right; the last wrong one: %s", right, tries, short(wrong))
	}
}

func ttyResize(t *trial) {
	c := t.shared()
	on := t.terminal(c, sized(90, 33), "sh")
	t.types(on, "echo ready\n")
	t.shows(on, "\nready")
	for i := range 5 {
		width, height := uint16(100+i), uint16(50+i)
		// A zero must not reach the terminal; of many sizes the last counts.
		on.sizes <- remotecommand.TerminalSize{}
		for j := range uint16(20) {
			on.sizes <- remotecommand.TerminalSize{Width: 10 + j, Height: 5 + j}
		}
		on.sizes <- remotecommand.TerminalSize{Width: width, Height: height}
		want := fmt.Sprintf("%d %d", height, width)
		t.types(on, fmt.Sprintf("until [ \"$(stty size 2>/dev/null)\" = \"%s\" ]; do sleep 0.1; done; echo is=%d\n", want, i))
		t.shows(on, fmt.Sprintf("\nis=%d", i))
	}
	t.types(on, "exit 9\n")
	t.exits(on, 9)
}

func ttyTerminal(t *trial) {
	c := t.shared()
	on := t.terminal(c, sized(80, 24), "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo is-a-tty; echo TERM=$TERM; echo err >&2; exit 3")
	t.exits(on, 3)
	for _, want := range []string{"is-a-tty\r\n", "TERM=xterm\r\n", "err\r\n"} {
		if !strings.Contains(on.String(), want) {
			t.complain("no %q on the screen: %s", want, short(on.String()))
		}
	}
	large := t.terminal(c, sized(80, 24), "sh", "-c", "stty -onlcr; "+within+" inside emit 1048576")
	t.exits(large, 0)
	want := make([]byte, 1<<20)
	noise(1).Read(want)
	if large.String() != string(want) {
		t.complain("1 MiB through the terminal: %d bytes, %d right", len(large.String()), agreeing(large.String(), want))
	}
}

func ttyInterrupt(t *trial) {
	c := t.shared()
	on := t.terminal(c, sized(80, 24), "sh", "-c", "echo waiting; sleep 1000")
	t.shows(on, "waiting")
	t.types(on, "\x03")
	t.exits(on, 130)
	on = t.terminal(c, sized(80, 24), "cat")
	t.types(on, "line\n")
	t.shows(on, "line\r\nline")
	t.types(on, "\x04")
	t.exits(on, 0)
}

// ttyStartFails: the program is not there while sizes come; nothing is left of it.
func ttyStartFails(t *trial) {
	c := t.shared()
	after := t.sameFiles(10 * time.Second)
	for range 20 {
		queue := sized(80, 24)
		for i := range uint16(100) {
			queue <- remotecommand.TerminalSize{Width: 80 + i, Height: 24}
		}
		on := t.terminal(c, queue, "/no/such/program")
		select {
		case err := <-on.ended:
			if err == nil {
				t.complain("no error")
			}
		case <-time.After(10 * time.Second):
			t.fail("does not end")
		}
		close(queue)
	}
	after()
}

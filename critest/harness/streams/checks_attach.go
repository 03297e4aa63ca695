package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/remotecommand"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var attachChecks = []check{
	{name: "attach.stdin-once", both: true, run: attachOnce},
	{name: "attach.again", both: true, run: attachAgain},
	{name: "attach.stdin-ends", both: true, run: attachStdinEnds},
	{name: "attach.exit", both: true, run: attachExit},
	{name: "attach.tty", both: true, run: attachTty},
	{name: "attach.without-stdin", both: true, run: attachWithoutStdin},
	{name: "attach.silent-gone", both: true, run: attachSilentGone},
	{name: "attach.log-rotation", both: true, run: attachRotation},
	{name: "attach.request", run: attachRequest},
}

// attachOnce: stdin that is given once ends the process, and with it the session.
func attachOnce(t *trial) {
	c := t.own(wish{command: []string{"sh", "-c", "cat; echo end; echo err >&2"}, stdin: true, once: true})
	var stdout, stderr strings.Builder
	ctx, cancel := context.WithTimeout(t.ctx, 20*time.Second)
	defer cancel()
	err := c.attach(ctx, t.over, asked{stdin: strings.NewReader("one\ntwo\n"), stdout: &stdout, stderr: &stderr})
	if err != nil || stdout.String() != "one\ntwo\nend\n" || stderr.String() != "err\n" {
		t.complain("stdout %s, stderr %s, %v", short(stdout.String()), short(stderr.String()), err)
	}
	t.logged(c, "one\ntwo\nend\n")
}

// logged waits until the log of stdout holds just this.
func (t *trial) logged(c *container, want string) {
	err := t.until(5*time.Second, func() error {
		got, err := c.log("stdout")
		if err == nil && got != want {
			return fmt.Errorf("the log has %s, not %s (%d bytes right)", short(got), short(want), agreeing(got, []byte(want)))
		}
		return err
	})
	if err != nil {
		t.complain("%v", err)
	}
}

// shell echoes each line of its stdin.
var shell = []string{"sh", "-c", "while read -r line; do echo \"heard $line\"; done; echo over"}

// hears sends a line until it is answered: the first may come before the session is up.
func (t *trial) hears(a *attacher, word string) {
	t.enter(a, word+"\n")
	err := t.until(10*time.Second, func() error {
		if !strings.Contains(a.String(), "heard "+word) {
			return fmt.Errorf("no answer to %s: %s", word, short(a.String()))
		}
		return nil
	})
	if err != nil {
		t.fail("%v", err)
	}
}

// attachAgain: a client that goes with its stdin open leaves the container's stdin open for the next.
func attachAgain(t *trial) {
	c := t.own(wish{command: shell, stdin: true})
	for i := range 3 {
		a := t.attach(c, true, false)
		t.hears(a, fmt.Sprint("word", i))
		a.cancel()
		<-a.ended
		time.Sleep(200 * time.Millisecond)
	}
	t.logged(c, "heard word0\nheard word1\nheard word2\n")
}

// attachStdinEnds: the end of one client's stdin ends its session, and not the container's stdin.
func attachStdinEnds(t *trial) {
	c := t.own(wish{command: shell, stdin: true})
	a := t.attach(c, true, false)
	t.hears(a, "one")
	a.keys.Close()
	t.overWithin(a, 10*time.Second)
	b := t.attach(c, true, false)
	t.hears(b, "two")
}

// attachExit: the end of the container ends the session, with everything that was said before.
func attachExit(t *trial) {
	for range 5 {
		c := t.own(wish{command: []string{within, "inside", "chatter", "20000,40,0"}, stdin: true})
		a := t.attach(c, true, false)
		t.live(a)
		t.enter(a, "go\n")
		if t.overWithin(a, 20*time.Second) && told(a.String()) != lines(20000, 40) {
			t.complain("%d bytes, not %d", len(told(a.String())), len(lines(20000, 40)))
		}
	}
}

func attachTty(t *trial) {
	c := t.own(wish{command: []string{"sh"}, stdin: true, tty: true})
	on := t.terminal(c, sized(91, 37))
	t.types(on, "echo $((6*7))th; until [ \"$(stty size 2>/dev/null)\" = '37 91' ]; do sleep 0.1; done; echo sized\n")
	t.shows(on, "42th\r\n")
	t.shows(on, "\nsized")
	on.sizes <- remotecommand.TerminalSize{Width: 95, Height: 38}
	t.types(on, "until [ \"$(stty size 2>/dev/null)\" = '38 95' ]; do sleep 0.1; done; echo again\n")
	t.shows(on, "\nagain")
	// The second client sees the same screen, and its input goes the same way.
	second := t.attach(c, true, true)
	t.enter(second, "\n")
	t.live(second)
	t.enter(second, "echo from-$((1+1))\n")
	t.shows(on, "from-2\r\n")
	t.types(on, "exit\n")
	t.exits(on, 0)
	t.overWithin(second, 10*time.Second)
}

// attachWithoutStdin: the container has no stdin; that of the client is taken and dropped.
func attachWithoutStdin(t *trial) {
	c := t.own(wish{command: []string{"sh", "-c", "i=0; while [ $i -lt 30 ]; do echo tick; sleep 0.1; i=$((i+1)); done; echo over"}})
	a := t.attach(c, true, false)
	t.live(a)
	t.enter(a, "nobody hears this\n")
	if t.overWithin(a, 20*time.Second) && told(a.String()) != "over\n" {
		t.complain("the end is missing: %s", short(told(a.String())))
	}
}

// attachSilentGone: clients of a container that says nothing go away; the server must see it.
func attachSilentGone(t *trial) {
	t.watched()
	c := t.own(wish{command: []string{"sleep", "1000"}, stdin: true})
	warm := t.attach(c, true, false)
	time.Sleep(time.Second)
	warm.cancel()
	<-warm.ended
	time.Sleep(2 * time.Second)
	after := t.sameFiles(10 * time.Second)
	for range 30 {
		connection := t.halfAttached(c)
		time.Sleep(10 * time.Millisecond)
		// With no linger the kernel sends a reset.
		t.need(connection.SetLinger(0), "linger")
		connection.Close()
	}
	after()
}

// attachRotation: the log is rotated while a client is attached; neither loses a line.
func attachRotation(t *trial) {
	const count = 4000
	c := t.own(wish{command: []string{within, "inside", "chatter", fmt.Sprintf("%d,30,500", count)}, stdin: true})
	a := t.attach(c, true, false)
	t.live(a)
	t.enter(a, "go\n")
	log := filepath.Join(c.config.LogDirectory, c.name+".log")
	time.Sleep(500 * time.Millisecond)
	t.need(os.Rename(log, log+".1"), "rotation")
	_, err := c.runtime.ReopenContainerLog(t.ctx, &pb.ReopenContainerLogRequest{ContainerId: c.id})
	t.need(err, "ReopenContainerLog")
	want := lines(count, 30)
	if t.overWithin(a, 30*time.Second) && told(a.String()) != want {
		t.complain("the client got %d bytes, not %d", len(told(a.String())), len(want))
	}
	err = t.until(5*time.Second, func() error {
		got, err := c.log("stdout")
		if err == nil && told(got) != want {
			return fmt.Errorf("the log holds %d bytes, not %d", len(told(got)), len(want))
		}
		return err
	})
	if err != nil {
		t.complain("%v", err)
	}
	second, err := os.Stat(log)
	if err != nil || second.Size() == 0 {
		t.complain("nothing in the new log: %v", err)
	}
}

func attachRequest(t *trial) {
	c := t.shared()
	for what, each := range map[string]struct {
		request *pb.AttachRequest
		code    codes.Code
	}{
		"no id":          {&pb.AttachRequest{Stdout: true}, codes.InvalidArgument},
		"unknown id":     {&pb.AttachRequest{ContainerId: "no-such-container", Stdout: true}, codes.NotFound},
		"tty and stderr": {&pb.AttachRequest{ContainerId: c.id, Tty: true, Stdout: true, Stderr: true}, codes.InvalidArgument},
		"no stream":      {&pb.AttachRequest{ContainerId: c.id}, codes.InvalidArgument},
	} {
		if _, err := t.runtime.Attach(t.ctx, each.request); status.Code(err) != each.code {
			t.complain("%s: %v, not %v", what, err, each.code)
		}
	}
	address, err := c.attachURL(t.ctx, asked{stdout: io.Discard})
	t.need(err, "a URL")
	if !strings.HasPrefix(address, "http://127.0.0.1:") {
		t.complain("the URL is %s", address)
	}
}

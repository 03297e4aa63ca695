package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"

	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var restartChecks = []check{
	{name: "restart.stop", both: true, run: func(t *trial) { restarted(t, "TERM") }},
	{name: "restart.crash", both: true, run: func(t *trial) { restarted(t, "KILL") }},
}

// again ends the server with a signal, starts it anew, and waits until it answers.
func (t *trial) again(signal string) {
	began := time.Now()
	output, err := exec.CommandContext(t.ctx, t.restart, signal, strconv.Itoa(t.pid)).Output()
	t.need(err, "%s", t.restart)
	t.pid, err = strconv.Atoi(strings.TrimSpace(string(output)))
	t.need(err, "%s: the new process", t.restart)
	t.need(t.until(30*time.Second, func() error {
		_, err := t.runtime.ListPodSandbox(t.ctx, &pb.ListPodSandboxRequest{})
		return err
	}), "the server after its restart")
	t.measure("the server answers again", time.Since(began).Seconds(), "s")
}

// restarted: the container and its streams outlive the server; the sessions end, and where the server could say so, not
// as if all were well.
func restarted(t *trial, signal string) {
	if t.restart == "" {
		t.skip("the server cannot be started anew (-restart)")
	}
	t.watched()
	c := t.own(wish{command: shell, stdin: true})
	attached := t.attach(c, true, false)
	t.hears(attached, "one")
	running := make(chan error, 1)
	on := newGathered()
	go func() {
		running <- t.shared().exec(t.ctx, t.over, asked{command: []string{"sh", "-c", "echo on; sleep 60"}, stdout: on, stderr: io.Discard})
	}()
	f := t.forward(t.shared().pod, echoPort)
	far := t.spoken(f)
	defer far.Close()
	select {
	case <-on.came:
	case err := <-running:
		t.fail("the exec ended by itself: %v", err)
	}
	t.again(signal)
	for what, ended := range map[string]chan error{"exec": running, "attach": attached.ended, "port-forward": f.ended} {
		select {
		case err := <-ended:
			// A library that hears nothing at all takes that for success.
			if err == nil && signal == "TERM" {
				t.complain("%s ended as if all were well", what)
			}
		case <-time.After(15 * time.Second):
			t.complain("%s outlives the server", what)
		}
	}
	far.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, far); timedOut(err) {
		t.complain("a forwarded connection outlives the server")
	}
	next := t.attach(c, true, false)
	t.hears(next, "two")
	t.logged(c, "heard one\nheard two\n")
	t.same("after it", t.shared().run(t, t.over, "echo", "fine"), 0, "fine\n", "")
	t.spoken(t.forward(t.shared().pod, echoPort)).Close()
}

// spoken is a forwarded connection that has carried a line there and back.
func (t *trial) spoken(f *forwarder) *net.TCPConn {
	far, err := f.dial(echoPort)
	t.need(err, "the local port")
	far.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintln(far, "hello")
	if line, err := bufio.NewReader(far).ReadString('\n'); line != "hello\n" {
		t.fail("a forwarded line: %q, %v", line, err)
	}
	return far
}

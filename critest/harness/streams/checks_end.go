package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var endChecks = []check{
	{name: "exec.background-child", both: true, limit: 30 * time.Second, run: execBackground},
	{name: "exec.client-gone-writing", both: true, run: execGoneWriting},
	{name: "exec.client-gone-reading", both: true, run: execGoneReading},
	{name: "exec.client-gone-often", both: true, run: execGoneOften},
	{name: "exec.parallel", both: true, limit: 4 * time.Minute, run: execParallel},
	{name: "exec.stopped-container", both: true, run: execStopped},
	{name: "exec.container-stops", both: true, run: execContainerStops},
}

// execBackground: a child in the background holds both pipes; the session ends all the same, and the child lives on.
func execBackground(t *trial) {
	c := t.shared()
	after := t.sameFiles(10 * time.Second)
	began := time.Now()
	got := c.run(t, t.over, "sh", "-c", "sleep 7777 & echo $!; exit 5")
	took := time.Since(began)
	if got.code != 5 || got.stdout == "" {
		t.complain("%s", got)
	}
	t.measure("end of a session whose child holds the pipes", took.Seconds(), "s")
	if took > 5*time.Second {
		t.complain("it took %v", took)
	}
	child := strings.TrimSpace(got.stdout)
	if child == "" {
		child = "$(pidof sleep)"
	}
	alive, err := c.sync(t.ctx, "sh", "-c", "kill -0 "+child+" && echo alive; kill "+child)
	if err != nil || alive != "alive\n" {
		t.complain("the child is gone: %q %v", alive, err)
	}
	after()
}

// cut begins a session and drops it once something came out.
func (t *trial) cut(c *container, a asked) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	output := newGathered()
	a.stdout = output
	ended := make(chan error, 1)
	go func() { ended <- c.exec(ctx, t.over, a) }()
	select {
	case <-output.came:
	case err := <-ended:
		t.fail("the session ended by itself: %v", err)
	case <-time.After(20 * time.Second):
		t.fail("nothing came")
	}
	cancel()
	<-ended
}

// execGoneWriting: a process whose client went away goes on without a block, or is ended.
func execGoneWriting(t *trial) {
	c := t.shared()
	after := t.sameFiles(15 * time.Second)
	script := "rm -f /tmp/wrote; i=0; while [ $i -lt 40 ]; do head -c 65536 /dev/zero || exit; sleep 0.05; i=$((i+1)); done; touch /tmp/wrote"
	t.cut(c, asked{command: []string{"sh", "-c", script}})
	err := t.until(15*time.Second, func() error {
		_, err := c.sync(t.ctx, "sh", "-c", "[ -e /tmp/wrote ] || ! ps -o args | grep -q 'rm -f /tmp/wrot[e]'")
		return err
	})
	if err != nil {
		left, _ := c.sync(t.ctx, "ps", "-o", "pid,stat,args")
		t.complain("the process neither ended its work nor went: %v: %s", err, left)
	}
	t.same("after it", c.run(t, t.over, "echo", "fine"), 0, "fine\n", "")
	after()
}

// execGoneReading: a process that reads stdin sees its end when the client goes.
func execGoneReading(t *trial) {
	c := t.shared()
	after := t.sameFiles(15 * time.Second)
	reader, writer := io.Pipe()
	defer writer.Close()
	t.cut(c, asked{command: []string{"sh", "-c", "rm -f /tmp/ended; echo on; cat; touch /tmp/ended"}, stdin: reader})
	err := t.until(10*time.Second, func() error {
		_, err := c.sync(t.ctx, "sh", "-c", "[ -e /tmp/ended ] || ! ps -o args | grep -q 'touch /tmp/ende[d]'")
		return err
	})
	if err != nil {
		t.complain("the process did not see the end of its stdin: %v", err)
	}
	after()
}

func execGoneOften(t *trial) {
	c := t.shared()
	t.cut(c, asked{command: []string{"sh", "-c", "echo on; sleep 1"}, stderr: io.Discard})
	time.Sleep(3 * time.Second)
	after := t.sameFiles(20 * time.Second)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 10 {
				ctx, cancel := context.WithTimeout(t.ctx, 300*time.Millisecond)
				_ = c.exec(ctx, t.over, asked{command: []string{"sh", "-c", "echo on; sleep 1; echo off"}, stdout: io.Discard, stderr: io.Discard})
				cancel()
			}
		})
	}
	wait.Wait()
	t.same("after 40 of them", c.run(t, t.over, "echo", "fine"), 0, "fine\n", "")
	after()
}

func execParallel(t *trial) {
	const many = 200
	c := t.shared()
	after := t.sameFiles(20 * time.Second)
	began := time.Now()
	var wait sync.WaitGroup
	for i := range many {
		wait.Go(func() {
			script := fmt.Sprintf("read line; echo $line %d; echo err %d >&2; exit %d", i, i, i%250)
			var stdout, stderr bytes.Buffer
			err := c.exec(t.ctx, t.over, asked{command: []string{"sh", "-c", script}, stdin: strings.NewReader("in\n"),
				stdout: &stdout, stderr: &stderr})
			t.same(fmt.Sprint("exec ", i), outcome{stdout.String(), stderr.String(), codeOf(err), err}, i%250,
				fmt.Sprintf("in %d\n", i), fmt.Sprintf("err %d\n", i))
		})
	}
	wait.Wait()
	t.measure("200 parallel execs", time.Since(began).Seconds(), "s")
	after()
}

func execStopped(t *trial) {
	c := t.own(wish{command: []string{"sleep", "1000"}})
	a := asked{command: []string{"echo", "x"}, stdout: io.Discard, stderr: io.Discard}
	address, err := c.execURL(t.ctx, a)
	t.need(err, "a URL while it runs")
	t.need(c.stop(t.ctx), "StopContainer")
	_, err = t.container("exec", c, a)
	if err == nil {
		t.complain("a stopped container takes an exec")
	}
	ctx, cancel := context.WithTimeout(t.ctx, 20*time.Second)
	defer cancel()
	if err := stream(ctx, t.over, address, a.options()); err == nil || ctx.Err() != nil {
		t.complain("a session with a container that stopped meanwhile: %v", err)
	}
	_, err = t.container("attach", c, a)
	if err == nil || status.Code(err) == codes.Unimplemented {
		t.complain("a stopped container and attach: %v", err)
	}
}

// container asks for a session of either kind.
func (t *trial) container(kind string, c *container, a asked) (string, error) {
	if kind == "exec" {
		return c.execURL(t.ctx, a)
	}
	return c.attachURL(t.ctx, a)
}

func execContainerStops(t *trial) {
	c := t.own(wish{command: []string{"sleep", "1000"}})
	output := newGathered()
	ended := make(chan error, 1)
	go func() {
		ended <- c.exec(t.ctx, t.over, asked{command: []string{"sh", "-c", "echo on; sleep 1000"}, stdout: output, stderr: io.Discard})
	}()
	select {
	case <-output.came:
	case err := <-ended:
		t.fail("the session ended by itself: %v", err)
	}
	t.need(c.stop(t.ctx), "StopContainer")
	select {
	case err := <-ended:
		if codeOf(err) != 137 {
			t.complain("the session ended with %v, not 137", err)
		}
	case <-time.After(15 * time.Second):
		t.complain("the session does not end")
	}
}

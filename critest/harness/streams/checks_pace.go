package main

import (
	"fmt"
	"sync"
	"time"
)

var paceChecks = []check{
	{name: "attach.many", both: true, run: attachMany},
	{name: "attach.slow-client", both: true, limit: 3 * time.Minute, run: attachSlow},
}

// attachMany: many clients at once get everything, each.
func attachMany(t *trial) {
	const clients, count, width = 16, 20000, 40
	c := t.own(wish{command: []string{within, "inside", "chatter", fmt.Sprintf("%d,%d,0", count, width)}, stdin: true})
	var all []*attacher
	for range clients {
		all = append(all, t.attach(c, false, false))
	}
	for _, each := range all {
		t.live(each)
	}
	speaker := t.attach(c, true, false)
	t.live(speaker)
	began := time.Now()
	t.enter(speaker, "go\n")
	want := lines(count, width)
	for i, each := range append(all, speaker) {
		if t.overWithin(each, 30*time.Second) && told(each.String()) != want {
			t.complain("client %d got %d bytes, not %d", i, len(told(each.String())), len(want))
		}
	}
	t.measure(fmt.Sprintf("%d clients, %d bytes each", clients+1, len(want)), time.Since(began).Seconds(), "s")
	t.logHas(c, want)
}

// logHas waits until the log holds what the chatter said.
func (t *trial) logHas(c *container, want string) {
	err := t.until(10*time.Second, func() error {
		got, err := c.log("stdout")
		if err == nil && told(got) != want {
			return fmt.Errorf("the log holds %d bytes, not %d", len(told(got)), len(want))
		}
		return err
	})
	if err != nil {
		t.complain("%v", err)
	}
}

// attachSlow: one client reads nothing at all; the others and the log get everything in time.
func attachSlow(t *trial) {
	const count, width = 200000, 80
	c := t.own(wish{command: []string{within, "inside", "chatter", fmt.Sprintf("%d,%d,0", count, width)}, stdin: true})
	stuck := t.halfAttached(c)
	defer stuck.Close()
	reading := []*attacher{t.attach(c, true, false), t.attach(c, false, false)}
	for _, each := range reading {
		t.live(each)
	}
	time.Sleep(500 * time.Millisecond)
	var grown func() int64
	if t.pid != 0 {
		grown = t.growth()
	}
	began := time.Now()
	t.enter(reading[0], "go\n")
	want := lines(count, width)
	var wait sync.WaitGroup
	for i, each := range reading {
		wait.Go(func() {
			if t.overWithin(each, 60*time.Second) && told(each.String()) != want {
				t.complain("client %d got %d bytes, not %d", i, len(told(each.String())), len(want))
			}
		})
	}
	wait.Wait()
	t.measure(fmt.Sprintf("%d bytes beside a client that reads nothing", len(want)), time.Since(began).Seconds(), "s")
	if grown != nil {
		t.measure("growth of the server meanwhile", float64(grown())/(1<<20), "MiB")
	}
	t.logHas(c, want)
}

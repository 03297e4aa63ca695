package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// transport is how a client reaches the streaming server.
type transport string

const (
	spdyStreams transport = "spdy"
	webSocket   transport = "websocket"
)

// check is something that must hold. It runs once, or once for each transport.
type check struct {
	name string
	// both: it runs for each transport.
	both bool
	// each: it runs for each of these protocols of a WebSocket.
	each []string
	// full: it takes long, and runs only where all is asked for.
	full bool
	// limit is how long it may take; zero means the usual time.
	limit time.Duration
	run   func(*trial)
}

// figure is something measured.
type figure struct {
	Check string  `json:"check"`
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// trial is one run of a check.
type trial struct {
	*setting
	name string
	over transport
	// protocol is the one of a check that has several.
	protocol string
	ctx      context.Context

	lock    sync.Mutex
	wrong   []string
	skipped string
	figures []figure
	ends    []func()
}

// complain says what is wrong, and lets the check go on. Any goroutine may call it.
func (t *trial) complain(format string, args ...any) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.wrong = append(t.wrong, fmt.Sprintf(format, args...))
}

// fail says what is wrong, and ends the check. Only the check's own goroutine may call it, and so for all that follow.
func (t *trial) fail(format string, args ...any) {
	t.complain(format, args...)
	runtime.Goexit()
}

// need ends the check where there is an error.
func (t *trial) need(err error, format string, args ...any) {
	if err != nil {
		t.fail("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// skip ends a check that cannot run here.
func (t *trial) skip(format string, args ...any) {
	t.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// measure keeps a figure.
func (t *trial) measure(name string, value float64, unit string) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.figures = append(t.figures, figure{Check: t.name, Name: name, Value: value, Unit: unit})
}

// later does something when the check ends, whichever way; what came last goes first.
func (t *trial) later(end func()) { t.ends = append(t.ends, end) }

// until repeats a question until it has no complaint left, or the time is over.
func (t *trial) until(limit time.Duration, ask func() error) error {
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := ask()
		if err == nil || t.ctx.Err() != nil {
			return err
		}
		if time.Since(began) > limit {
			return fmt.Errorf("%w (after %v)", err, limit)
		}
	}
}

// reason is what is wrong; of many complaints the first few.
func (t *trial) reason() string {
	const few = 4
	if len(t.wrong) <= few {
		return strings.Join(t.wrong, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(t.wrong[:few], "; "), len(t.wrong)-few)
}

const usual = 2 * time.Minute

// try runs a check to its end, or gives it up.
func (s *setting) try(each planned) *trial {
	limit := each.limit
	if limit == 0 {
		limit = usual
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	t := &trial{setting: s, name: each.name, over: each.over, protocol: each.protocol, ctx: ctx}
	if each.full && !s.full {
		t.skipped = "takes long; runs with -full"
		return t
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, end := range slices.Backward(t.ends) {
				end()
			}
		}()
		each.run(t)
	}()
	select {
	case <-done:
		return t
	case <-time.After(limit + 20*time.Second):
		// The goroutine is still there, so what it says later must not reach this verdict.
		return &trial{setting: s, name: each.name, wrong: []string{fmt.Sprintf("it hangs (%v)", limit)}}
	}
}

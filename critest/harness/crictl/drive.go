package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

//go:embed requests
var requests embed.FS

const (
	// limit is how long one call may take.
	limit = 60 * time.Second
	// patience is how long a call is repeated, or its output waited for.
	patience = 15 * time.Second
)

// answer is what a server made of one step.
type answer struct {
	Step    string   `json:"step"`
	Command []string `json:"command"`
	// Wrong says in which way the answer is not what is wanted; empty where it is.
	Wrong   string          `json:"wrong,omitempty"`
	Stdout  string          `json:"stdout"`
	Stderr  string          `json:"stderr,omitempty"`
	Seconds float64         `json:"seconds"`
	Fields  map[string]bool `json:"fields,omitempty"`
}

// driver goes through the steps with one server.
type driver struct {
	crictl, endpoint, work string
	saved                  map[string]string
	aside                  []func() answer
}

func newDriver(crictl, endpoint, work string) (*driver, error) {
	d := &driver{crictl: crictl, endpoint: endpoint, work: work, saved: map[string]string{"WORK": work}}
	for _, folder := range []string{"logs/second", "data"} {
		if err := os.MkdirAll(filepath.Join(work, folder), 0o755); err != nil {
			return nil, err
		}
	}
	entries, err := requests.ReadDir("requests")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		text, err := requests.ReadFile("requests/" + entry.Name())
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(work, entry.Name()), []byte(d.fill(string(text))), 0o644); err != nil {
			return nil, err
		}
	}
	return d, os.WriteFile(filepath.Join(work, "crictl.yaml"), []byte("timeout: 30\n"), 0o644)
}

// fill puts what earlier steps saved in the place of their names; {NAME:13} is the first 13 characters of it.
func (d *driver) fill(text string) string {
	return regexp.MustCompile(`\{([A-Z]+)(?::(\d+))?\}`).ReplaceAllStringFunc(text, func(found string) string {
		name, cut, _ := strings.Cut(strings.Trim(found, "{}"), ":")
		value, known := d.saved[name]
		if !known {
			return found
		}
		var length int
		if n, _ := fmt.Sscan(cut, &length); n == 1 && length < len(value) {
			value = value[:length]
		}
		return value
	})
}

func (d *driver) run(all []step) []answer {
	var answers []answer
	for _, each := range all {
		if each.aside {
			d.aside = append(d.aside, d.begin(each))
			continue
		}
		answers = append(answers, d.take(each))
	}
	for _, end := range d.aside {
		answers = append(answers, end())
	}
	return answers
}

// take runs one step, more than once where it says so.
func (d *driver) take(each step) answer {
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		got := d.call(each)
		if got.Wrong == "" || !each.again || time.Since(began) > patience {
			return got
		}
	}
}

// begin starts a step that is ended by what it returns.
func (d *driver) begin(each step) func() answer {
	ended := make(chan answer)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	go func() { ended <- d.callUntil(ctx, each) }()
	return func() answer {
		// The last events are still on their way.
		time.AfterFunc(2*time.Second, cancel)
		return <-ended
	}
}

func (d *driver) call(each step) answer {
	allowed := limit
	if each.until || each.page != "" {
		allowed = patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), allowed)
	defer cancel()
	return d.callUntil(ctx, each)
}

// callUntil runs the command until it ends, until it did what is wanted of one that does not end, or until the context
// is over.
func (d *driver) callUntil(ctx context.Context, each step) answer {
	args := []string{"--config", filepath.Join(d.work, "crictl.yaml"), "--runtime-endpoint", d.endpoint}
	for _, arg := range each.args {
		args = append(args, d.fill(arg))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	command := exec.CommandContext(ctx, d.crictl, args...)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 2 * time.Second
	var stdout, stderr output
	command.Stdout, command.Stderr = &stdout, &stderr
	want := regexp.MustCompile("(?m)" + d.fill(each.want))
	if each.stdin != "" {
		command.Stdin = strings.NewReader(each.stdin)
	}
	reached := make(chan struct{})
	done := func() {
		close(reached)
		cancel()
	}
	switch {
	case each.until:
		stdin, err := open(each.stdin)
		if err != nil {
			return answer{Step: each.name, Wrong: err.Error()}
		}
		defer stdin.Close()
		command.Stdin = stdin.reader
		stdout.watch(want, done)
	case each.page != "":
		stdout.watch(want, func() {
			go func() {
				if fetch(ctx, each.page) == nil {
					done()
				}
			}()
		})
	}
	began := time.Now()
	err := command.Run()
	got := answer{Step: each.name, Command: args[4:], Stdout: stdout.buffer.String(), Stderr: stderr.buffer.String(),
		Seconds: time.Since(began).Seconds()}
	if each.until || each.page != "" {
		err = whether(reached, err)
	} else if each.aside && ctx.Err() != nil {
		err = nil
	}
	got.Wrong = wrong(each, want, got, err)
	if got.Wrong == "" && each.save != "" {
		lines := strings.Split(strings.TrimSpace(got.Stdout), "\n")
		d.saved[each.save] = lines[len(lines)-1]
	}
	if got.Wrong == "" && each.fields {
		if got.Fields, err = fieldsOf(got.Stdout); err != nil {
			got.Wrong = "its output cannot be read: " + err.Error()
		}
	}
	return got
}

// openPipe is a stdin that does not end: attach would end with it.
type openPipe struct{ reader, writer *os.File }

func open(text string) (*openPipe, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = writer.WriteString(text)
	return &openPipe{reader, writer}, err
}

// Close ends it.
func (p *openPipe) Close() error { return errors.Join(p.reader.Close(), p.writer.Close()) }

// whether: a command that is ended by us did well if it was because it reached what it should.
func whether(reached chan struct{}, err error) error {
	select {
	case <-reached:
		return nil
	default:
		return errors.Join(errors.New("it never came to what was waited for"), err)
	}
}

const unimplemented = "code = Unimplemented"

// wrong says in which way an answer is not what the step wants.
func wrong(each step, want *regexp.Regexp, got answer, err error) string {
	if each.fails {
		if err == nil {
			return "it succeeded, and must not"
		}
		// A call that is missing is no right answer, but where the step wants just that.
		if strings.Contains(got.Stderr, unimplemented) && !strings.Contains(each.want, unimplemented) {
			return "it failed because it is not there: " + tail(got.Stderr)
		}
		if !want.MatchString(got.Stdout + got.Stderr) {
			return fmt.Sprintf("it failed, yet said nothing that matches %q: %s", want, tail(got.Stderr))
		}
		return ""
	}
	if err != nil {
		return fmt.Sprintf("%v: %s", err, tail(got.Stderr))
	}
	said := got.Stdout
	if each.stderr {
		said = got.Stderr
	}
	if !want.MatchString(strings.TrimSpace(said)) {
		return fmt.Sprintf("its output does not match %q: %s", want, tail(said))
	}
	return ""
}

// tail is the end of an output, which holds the error.
func tail(text string) string {
	text = strings.TrimSpace(text)
	return text[max(0, len(text)-600):]
}

// fetch asks an address until it answers.
func fetch(ctx context.Context, address string) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		reply, err := http.DefaultClient.Do(request)
		if err == nil {
			_, err = io.Copy(io.Discard, reply.Body)
			err = errors.Join(err, reply.Body.Close())
		}
		if err == nil && reply.StatusCode == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// output collects what a command prints, and calls once when it matches.
type output struct {
	lock   sync.Mutex
	buffer bytes.Buffer
	want   *regexp.Regexp
	then   func()
}

func (o *output) watch(want *regexp.Regexp, then func()) { o.want, o.then = want, then }

func (o *output) Write(data []byte) (int, error) {
	o.lock.Lock()
	defer o.lock.Unlock()
	count, err := o.buffer.Write(data)
	if o.then != nil && o.want.Match(o.buffer.Bytes()) {
		o.then()
		o.then = nil
	}
	return count, err
}

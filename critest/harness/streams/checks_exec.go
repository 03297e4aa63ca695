package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
)

var execChecks = []check{
	{name: "exec.output", both: true, run: execOutput},
	{name: "exec.exit-codes", both: true, run: execCodes},
	{name: "exec.status", run: execStatus},
	{name: "exec.not-found", both: true, run: execNotFound},
	{name: "exec.half-close", both: true, run: execHalfClose},
	{name: "exec.binary", both: true, run: execBinary},
	{name: "exec.both-outputs", both: true, run: execBothOutputs},
	{name: "exec.stdin-left-open", both: true, run: execStdinLeftOpen},
	{name: "exec.stdin-unread", both: true, run: execStdinUnread},
	{name: "exec.only-one-stream", both: true, run: execOneStream},
	{name: "exec.old-protocols", run: execOldProtocols},
	{name: "exec.request", run: execRequest},
}

func execOutput(t *trial) {
	c := t.shared()
	t.same("both", c.run(t, t.over, "sh", "-c", "printf out; printf err >&2"), 0, "out", "err")
	t.same("none", c.run(t, t.over, "true"), 0, "", "")
	t.same("a line", c.run(t, t.over, "echo", "a  b"), 0, "a  b\n", "")
}

// ending maps an exit code to a script that ends with it.
var ending = map[int]string{0: "exit 0", 1: "exit 1", 3: "exit 3", 126: "exit 126", 137: "kill -9 $$", 143: "kill $$", 255: "exit 255"}

func execCodes(t *trial) {
	c := t.shared()
	for code, script := range ending {
		t.same(script, c.run(t, t.over, "sh", "-c", "echo before; "+script), code, "before\n", "")
	}
}

// ended is the status object on the error stream.
type ended struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Code    int    `json:"code"`
	Details *struct {
		Causes []struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"causes"`
	} `json:"details"`
}

// judge says in which way a status is not the one of an exit code.
func (e ended) judge(code int) error {
	if code == 0 {
		if e.Status != "Success" {
			return fmt.Errorf("status %q, not Success", e.Status)
		}
		return nil
	}
	if e.Status != "Failure" || e.Reason != "NonZeroExitCode" || e.Message == "" {
		return fmt.Errorf("status %q, reason %q, message %q", e.Status, e.Reason, e.Message)
	}
	if e.Details == nil || len(e.Details.Causes) != 1 || e.Details.Causes[0].Reason != "ExitCode" ||
		e.Details.Causes[0].Message != fmt.Sprint(code) {
		return fmt.Errorf("details %+v", e.Details)
	}
	return nil
}

// byHand runs a command over streams that are opened one by one, and returns both outputs and the error stream.
func (c *container) byHand(ctx context.Context, protocol string, command ...string) (stdout, stderr, failure []byte, err error) {
	a := asked{command: command, stdout: io.Discard, stderr: io.Discard}
	address, err := c.execURL(ctx, a)
	if err != nil {
		return nil, nil, nil, err
	}
	connection, chosen, err := negotiate(ctx, address, protocol)
	if err != nil {
		return nil, nil, nil, err
	}
	defer connection.Close()
	stop := context.AfterFunc(ctx, func() { connection.Close() })
	defer stop()
	if chosen != protocol {
		return nil, nil, nil, fmt.Errorf("the server chose %q, offered was %q", chosen, protocol)
	}
	var streams []httpstream.Stream
	for _, kind := range []string{"error", "stdout", "stderr"} {
		one, err := connection.CreateStream(http.Header{"streamType": {kind}})
		if err != nil {
			return nil, nil, nil, fmt.Errorf("stream %s: %w", kind, err)
		}
		streams = append(streams, one)
	}
	if stdout, err = io.ReadAll(streams[1]); err != nil {
		return nil, nil, nil, err
	}
	if stderr, err = io.ReadAll(streams[2]); err != nil {
		return nil, nil, nil, err
	}
	failure, err = io.ReadAll(streams[0])
	return stdout, stderr, failure, err
}

func execStatus(t *trial) {
	c := t.shared()
	for code, script := range ending {
		stdout, _, text, err := c.byHand(t.ctx, "v4.channel.k8s.io", "sh", "-c", "echo before; "+script)
		t.need(err, "%s", script)
		var got ended
		if err := json.Unmarshal(text, &got); err != nil {
			t.complain("%s: the status is no JSON object: %v: %s", script, err, short(string(text)))
		} else if err := got.judge(code); err != nil {
			t.complain("%s: %v: %s", script, err, text)
		}
		if bytes.HasSuffix(text, []byte("\n")) {
			t.complain("%s: a line end after the status", script)
		}
		if string(stdout) != "before\n" {
			t.complain("%s: stdout %s", script, short(string(stdout)))
		}
	}
}

func execNotFound(t *trial) {
	c := t.shared()
	got := c.run(t, t.over, "/no/such/program")
	if got.err == nil || got.code == 0 {
		t.complain("no error: %s", got)
	} else if !strings.Contains(got.err.Error(), "/no/such/program") && got.code < 126 {
		t.complain("the error names neither the program nor the code 126 or 127: %s", got)
	}
	t.same("after it", c.run(t, t.over, "echo", "fine"), 0, "fine\n", "")
}

func execHalfClose(t *trial) {
	c := t.shared()
	t.same("cat", c.feed(t, t.over, strings.NewReader("hello"), "cat"), 0, "hello", "")
	t.same("nothing", c.feed(t, t.over, strings.NewReader(""), "cat"), 0, "", "")
	large := io.LimitReader(noise(1), 1<<20)
	t.same("wc", c.feed(t, t.over, large, "wc", "-c"), 0, "1048576\n", "")
	t.same("late", c.feed(t, t.over, strings.NewReader("x"), "sh", "-c", "cat; sleep 0.5; echo y"), 0, "xy\n", "")
	t.same("without stdin", c.run(t, t.over, "sh", "-c", "cat; echo end"), 0, "end\n", "")
}

func execBinary(t *trial) {
	all := make([]byte, 1<<16)
	for i := range all {
		all[i] = byte(i * 7)
	}
	t.same("cat", t.shared().feed(t, t.over, bytes.NewReader(all), "cat"), 0, string(all), "")
}

func execBothOutputs(t *trial) {
	const size = 8 << 20
	c := t.shared()
	got := c.run(t, t.over, within, "inside", "emit", fmt.Sprint(size), "both")
	if got.code != 0 {
		t.complain("%v", got.err)
	}
	for i, output := range []string{got.stdout, got.stderr} {
		want := make([]byte, size)
		noise(byte(i + 1)).Read(want)
		if output != string(want) {
			t.complain("output %d: %d of %d bytes, %d of them right", i+1, len(output), size, agreeing(output, want))
		}
	}
}

// agreeing is how many bytes at the beginning are the same.
func agreeing(got string, want []byte) int {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return i
		}
	}
	return min(len(got), len(want))
}

func execStdinLeftOpen(t *trial) {
	reader, writer := io.Pipe()
	defer writer.Close()
	began := time.Now()
	got := t.shared().feed(t, t.over, reader, "sh", "-c", "echo out; exit 4")
	t.same("a process that does not read", got, 4, "out\n", "")
	if took := time.Since(began); took > 5*time.Second {
		t.complain("it took %v", took)
	}
}

// execStdinUnread: the process ends while the client still sends; what it said and its code must arrive all the same.
func execStdinUnread(t *trial) {
	for range 10 {
		endless := io.LimitReader(noise(1), 1<<30)
		t.same("head", t.shared().feed(t, t.over, endless, "sh", "-c", "head -c 5 | wc -c; exit 5"), 5, "5\n", "")
	}
}

func execOneStream(t *trial) {
	c := t.shared()
	var output bytes.Buffer
	err := c.exec(t.ctx, t.over, asked{command: []string{"sh", "-c", "echo out; echo err >&2; exit 6"}, stderr: &output})
	t.same("stderr", outcome{"", output.String(), codeOf(err), err}, 6, "", "err\n")
	output.Reset()
	err = c.exec(t.ctx, t.over, asked{command: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, stdout: &output})
	t.same("stdout", outcome{output.String(), "", codeOf(err), err}, 7, "out\n", "")
	err = c.exec(t.ctx, t.over, asked{command: []string{"sh", "-c", "cat >/tmp/only-stdin"}, stdin: strings.NewReader("in")})
	t.same("stdin", outcome{"", "", codeOf(err), err}, 0, "", "")
	t.same("what it wrote", c.run(t, t.over, "cat", "/tmp/only-stdin"), 0, "in", "")
}

// execOldProtocols: before v4 the error stream has text, and only where something failed.
func execOldProtocols(t *trial) {
	c := t.shared()
	for _, protocol := range []string{"v3.channel.k8s.io", "v2.channel.k8s.io"} {
		stdout, _, text, err := c.byHand(t.ctx, protocol, "echo", "out")
		t.need(err, "%s", protocol)
		if string(stdout) != "out\n" || len(text) != 0 {
			t.complain("%s: stdout %q, error stream %q", protocol, stdout, text)
		}
		_, _, text, err = c.byHand(t.ctx, protocol, "sh", "-c", "exit 3")
		t.need(err, "%s", protocol)
		if len(text) == 0 || text[0] == '{' {
			t.complain("%s: a failure says %q", protocol, text)
		}
	}
	// The error stream of the very first protocol is reset at once.
	stdout, _, _, err := c.byHand(t.ctx, "channel.k8s.io", "echo", "out")
	if string(stdout) != "out\n" {
		t.complain("the first protocol: stdout %q, %v", stdout, err)
	}
}

func execRequest(t *trial) {
	c := t.shared()
	for what, each := range map[string]struct {
		request *pb.ExecRequest
		code    codes.Code
	}{
		"no id":          {&pb.ExecRequest{Cmd: []string{"true"}, Stdout: true}, codes.InvalidArgument},
		"unknown id":     {&pb.ExecRequest{ContainerId: "no-such-container", Cmd: []string{"true"}, Stdout: true}, codes.NotFound},
		"tty and stderr": {&pb.ExecRequest{ContainerId: c.id, Cmd: []string{"true"}, Tty: true, Stdout: true, Stderr: true}, codes.InvalidArgument},
		"no stream":      {&pb.ExecRequest{ContainerId: c.id, Cmd: []string{"true"}}, codes.InvalidArgument},
	} {
		_, err := t.runtime.Exec(t.ctx, each.request)
		if status.Code(err) != each.code {
			t.complain("%s: %v, not %v", what, err, each.code)
		}
	}
	address, err := c.execURL(t.ctx, asked{command: []string{"true"}, stdout: io.Discard})
	t.need(err, "a URL")
	if !strings.HasPrefix(address, "http://127.0.0.1:") {
		t.complain("the URL is %s", address)
	}
}

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

var channelChecks = []check{
	{name: "channels.exec", each: protocols, run: channelsExec},
	{name: "channels.ready", each: protocols, run: channelsReady},
	{name: "channels.close", each: protocols, run: channelsClose},
	{name: "channels.stdin", each: protocols, run: channelsStdin},
	{name: "channels.fragments", each: []string{"v5.channel.k8s.io", "v4.channel.k8s.io"}, run: channelsFragments},
	{name: "channels.tty", each: protocols, run: channelsTty},
	{name: "channels.ping", each: []string{"v5.channel.k8s.io", "v4.channel.k8s.io"}, run: channelsPing},
	{name: "channels.attach", each: protocols, run: channelsAttach},
	{name: "channels.forward", each: forwardProtocols, run: channelsForward},
	{name: "channels.forward-refused", each: forwardProtocols, run: channelsForwardRefused},
}

// protocols are all that exec and attach know over a WebSocket.
var protocols = []string{"v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io",
	"base64.channel.k8s.io", ""}

// gone is how a session over channels ended.
type gone struct {
	outputs map[byte]string
	// first is the channel of the first message.
	first byte
	// empty: the first message carried nothing.
	empty bool
	// code is that of the close frame, zero where there was none.
	code int
	// text is what the close frame says.
	text string
}

// collect reads to the end of the session.
func (c *channels) collect() (gone, error) {
	g := gone{outputs: map[byte]string{}}
	for count := 0; ; count++ {
		channel, payload, err := c.receive()
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			g.code, g.text = closed.Code, closed.Text
			return g, nil
		}
		if err != nil {
			return g, err
		}
		if count == 0 {
			g.first, g.empty = channel, len(payload) == 0
		}
		g.outputs[channel] += string(payload)
	}
}

// websocketOf opens an exec session.
func (t *trial) websocketOf(c *container, a asked) *channels {
	address, err := c.execURL(t.ctx, a)
	t.need(err, "a URL")
	opened, err := dialChannels(t.ctx, address, t.protocol)
	t.need(err, "a WebSocket")
	t.later(func() { opened.Close() })
	return opened
}

func outputs(command ...string) asked {
	return asked{command: command, stdout: io.Discard, stderr: io.Discard}
}

// plainText: before v4 a failure is told as text.
func plainText(protocol string) bool { return !strings.HasPrefix(protocol, "v") }

func channelsExec(t *trial) {
	c := t.shared()
	for _, code := range []int{0, 3, 137} {
		s := t.websocketOf(c, outputs("sh", "-c", "echo out; echo err >&2; "+ending[code]))
		g, err := s.collect()
		if err != nil {
			t.complain("%v", err)
			continue
		}
		if g.outputs[stdoutChannel] != "out\n" || g.outputs[stderrChannel] != "err\n" {
			t.complain("outputs %q", g.outputs)
		}
		if err := statusOf(t.protocol, g.outputs[errorChannel], code); err != nil {
			t.complain("code %d: %v", code, err)
		}
	}
}

// statusOf judges what the error channel said of an exit code.
func statusOf(protocol, text string, code int) error {
	if plainText(protocol) {
		if (code == 0) != (text == "") || strings.HasPrefix(text, "{") {
			return fmt.Errorf("the error channel has %q", text)
		}
		return nil
	}
	var got ended
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return fmt.Errorf("the status is no JSON object: %w: %q", err, text)
	}
	return got.judge(code)
}

// channelsReady: the first message is empty, on the lowest channel that was asked for.
func channelsReady(t *trial) {
	c := t.shared()
	for channel, a := range map[byte]asked{
		stdoutChannel: outputs("true"),
		stderrChannel: {command: []string{"true"}, stderr: io.Discard},
		errorChannel:  {command: []string{"true"}, stdin: strings.NewReader("")},
	} {
		g, err := t.websocketOf(c, a).collect()
		if err != nil || g.first != channel || !g.empty {
			t.complain("the first message is on channel %d, empty %v, not on channel %d; %v", g.first, g.empty, channel, err)
		}
	}
}

// channelsClose: every session ends with a close frame of code 1000.
func channelsClose(t *trial) {
	c := t.shared()
	g, err := t.websocketOf(c, outputs("sh", "-c", "exit 3")).collect()
	if err != nil || g.code != websocket.CloseNormalClosure {
		t.complain("close code %d, %v", g.code, err)
	}
}

func channelsStdin(t *trial) {
	c := t.shared()
	s := t.websocketOf(c, asked{command: []string{"sh", "-c", "read -r line; echo got $line; cat"},
		stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
	// Only v5 can end stdin; with the others the client goes.
	t.need(s.send(stdinChannel, []byte("a line\n")), "a line")
	t.need(s.send(9, []byte("nobody knows this channel")), "an unknown channel")
	t.need(s.send(stdoutChannel, []byte("nor is this one to be written to")), "an output channel")
	got := ""
	for got != "got a line\n" {
		channel, payload, err := s.receive()
		t.need(err, "after %q", got)
		if channel == stdoutChannel {
			got += string(payload)
		}
		if len(got) > len("got a line\n") {
			t.fail("stdout %q", got)
		}
	}
	if t.protocol != "v5.channel.k8s.io" {
		return
	}
	for range 3 {
		t.need(s.send(closeChannel, []byte{stdinChannel}), "the end of stdin")
	}
	g, err := s.collect()
	if err != nil || g.code != websocket.CloseNormalClosure || statusOf(t.protocol, g.outputs[errorChannel], 0) != nil {
		t.complain("after the end of stdin: %q, close code %d, %v", g.outputs, g.code, err)
	}
}

// channelsFragments: a message may come in fragments, be large, or be empty.
func channelsFragments(t *trial) {
	// A message of more than 1 MiB may be refused.
	const size, first = 1600 << 10, 700 << 10
	s := t.websocketOf(t.shared(), asked{command: []string{"sh", "-c", "head -c 1638400 | sha256sum"}, stdin: strings.NewReader(""),
		stdout: io.Discard, stderr: io.Discard})
	t.need(s.WriteMessage(websocket.BinaryMessage, nil), "an empty message")
	t.need(s.send(stdinChannel, nil), "a message with nothing but its channel")
	all := make([]byte, size)
	noise(6).Read(all)
	t.need(s.send(stdinChannel, all[:first]), "a large message")
	// The writer makes a frame of each buffer that is full: a message of many fragments.
	writer, err := s.NextWriter(websocket.BinaryMessage)
	t.need(err, "a message")
	_, err = io.Copy(struct{ io.Writer }{writer}, bytes.NewReader(append([]byte{stdinChannel}, all[first:]...)))
	t.need(err, "fragments")
	t.need(writer.Close(), "the last fragment")
	g, err := s.collect()
	if want := digestOf(6, size) + "  -\n"; g.outputs[stdoutChannel] != want {
		t.complain("%q, not %q, close code %d %s, %v", g.outputs, want, g.code, g.text, err)
	}
}

func channelsTty(t *trial) {
	s := t.websocketOf(t.shared(), asked{command: []string{"sh", "-c",
		"until [ \"$(stty size 2>/dev/null)\" = '41 77' ]; do sleep 0.1; done; echo sized"}, stdin: strings.NewReader(""), stdout: io.Discard, tty: true})
	for _, part := range []string{`{"Width":1,"Height":1}`, `{"Width":0,"Height":0}{"wid`, `th":77,"height":41}` + "\n"} {
		t.need(s.send(resizeChannel, []byte(part)), "a size")
	}
	g, err := s.collect()
	if g.outputs[stdoutChannel] != "sized\r\n" {
		t.complain("%q, %v", g.outputs, err)
	}
}

// channelsPing: a ping is answered with its own text while a session goes on.
func channelsPing(t *trial) {
	s := t.websocketOf(t.shared(), outputs("sh", "-c", "echo on; sleep 30"))
	answered := make(chan string, 1)
	s.SetPongHandler(func(text string) error {
		answered <- text
		return nil
	})
	t.need(s.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(time.Second)), "a ping")
	go s.collect()
	select {
	case got := <-answered:
		if got != "are you there" {
			t.complain("the pong carries %q", got)
		}
	case <-time.After(5 * time.Second):
		t.complain("no pong")
	}
}

func channelsAttach(t *trial) {
	c := t.own(wish{command: []string{"sh", "-c", "read -r line; echo got $line; sleep 0.3; echo end >&2"}, stdin: true})
	address, err := c.attachURL(t.ctx, asked{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
	t.need(err, "a URL")
	s, err := dialChannels(t.ctx, address, t.protocol)
	t.need(err, "a WebSocket")
	t.later(func() { s.Close() })
	t.need(s.send(stdinChannel, []byte("word\n")), "stdin")
	g, err := s.collect()
	if g.outputs[stdoutChannel] != "got word\n" || g.outputs[stderrChannel] != "end\n" || err != nil {
		t.complain("%q, %v", g.outputs, err)
	}
}

// forwardProtocols are those of port-forward with channels; each port has two.
var forwardProtocols = []string{"v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""}

// forwarded opens channels to ports, and checks the first messages, which tell each port on both of its channels.
func (t *trial) forwarded(p *pod, ports ...int32) *channels {
	address, err := p.forwardURL(t.ctx, ports...)
	t.need(err, "a URL")
	s, err := dialChannels(t.ctx, address, t.protocol)
	t.need(err, "a WebSocket")
	t.later(func() { s.Close() })
	missing := map[byte]int32{}
	for i, port := range ports {
		missing[byte(2*i)], missing[byte(2*i+1)] = port, port
	}
	for len(missing) > 0 {
		channel, payload, err := s.receive()
		t.need(err, "the ports of channels %v", missing)
		port, wanted := missing[channel]
		if !wanted || len(payload) != 2 || binary.LittleEndian.Uint16(payload) != uint16(port) {
			t.fail("the first message on channel %d is %v", channel, payload)
		}
		delete(missing, channel)
	}
	return s
}

func channelsForward(t *trial) {
	s := t.forwarded(t.shared().pod, echoPort, sixPort, echoPort)
	got := map[byte]string{}
	for i := range 3 {
		t.need(s.send(byte(2*i), fmt.Appendf(nil, "hello %d", i)), "data")
	}
	for len(got[0]) < 7 || len(got[2]) < 7 || len(got[4]) < 7 {
		channel, payload, err := s.receive()
		t.need(err, "after %q", got)
		got[channel] += string(payload)
	}
	for i := range 3 {
		if got[byte(2*i)] != fmt.Sprintf("hello %d", i) || got[byte(2*i+1)] != "" {
			t.complain("port %d: %q", i, got)
		}
	}
	s.Close()
}

func channelsForwardRefused(t *trial) {
	s := t.forwarded(t.shared().pod, closedPort)
	channel, payload, err := s.receive()
	if err != nil || channel != 1 || !strings.Contains(string(payload), "refused") {
		t.complain("channel %d: %q, %v", channel, payload, err)
	}
	if g, err := s.collect(); err != nil {
		t.complain("the session does not end: %v (close code %d)", err, g.code)
	}
}

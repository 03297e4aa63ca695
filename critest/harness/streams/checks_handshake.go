package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

var handshakeChecks = []check{
	{name: "handshake.foreign-host-and-origin", run: handshakeForeign},
	{name: "handshake.spdy-versions", run: handshakeVersions},
	{name: "handshake.websocket", run: handshakeWebSocket},
	{name: "handshake.unmasked-frame", run: handshakeUnmasked},
	{name: "handshake.bad-frames", run: handshakeBadFrames},
	{name: "handshake.bytes-in-one-segment", run: handshakeOneSegment},
	{name: "handshake.cut-into-bytes", run: handshakeCut},
}

// answer is an HTTP answer that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// same leaves out what differs by nature.
func (a answer) String() string {
	var lines []string
	for name, values := range a.header {
		if name != "Date" {
			lines = append(lines, name+": "+strings.Join(values, ", "))
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d, %s, %q", a.status, strings.Join(lines, "; "), a.body)
}

// upgrades: the two headers are there that every client looks at.
func (a answer) upgrades(to string) bool {
	return strings.Contains(strings.ToLower(a.header.Get("Connection")), "upgrade") &&
		strings.Contains(strings.ToLower(a.header.Get("Upgrade")), to)
}

// ask sends a request by hand and reads the whole answer; it fails where that is open-ended.
func ask(ctx context.Context, address, method, path string, lines ...string) (answer, error) {
	connection, target, err := plug(ctx, address)
	if err != nil {
		return answer{}, err
	}
	defer connection.Close()
	head := method + " " + path + " HTTP/1.1\r\n"
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "Host:") }) {
		head += "Host: " + target.Host + "\r\n"
	}
	for _, line := range lines {
		head += line + "\r\n"
	}
	if _, err := io.WriteString(connection, head+"\r\n"); err != nil {
		return answer{}, err
	}
	connection.SetReadDeadline(time.Now().Add(5 * time.Second))
	reply, err := http.ReadResponse(bufio.NewReader(connection), &http.Request{Method: method})
	if err != nil {
		return answer{}, err
	}
	got := answer{status: reply.StatusCode, header: reply.Header}
	if reply.StatusCode == http.StatusSwitchingProtocols {
		return got, nil
	}
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return got, fmt.Errorf("%d with a body that does not end: %w", reply.StatusCode, err)
	}
	got.body = string(body)
	return got, nil
}

// fresh is the URL of a session that would say a word, and the path of it.
func (t *trial) fresh() (address, path string) {
	address, err := t.shared().execURL(t.ctx, outputs("echo", "out"))
	t.need(err, "a URL")
	target, err := url.Parse(address)
	t.need(err, "the URL")
	return address, target.RequestURI()
}

// handshakes of the two kinds.
func spdyHandshake(versions ...string) []string {
	lines := []string{"Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0"}
	for _, version := range versions {
		lines = append(lines, "X-Stream-Protocol-Version: "+version)
	}
	return lines
}

// The key of every handshake by hand, and what accepts it.
const (
	socketKey = "c29tZSBzaXh0ZWVuIGJ5dA=="
	accepted  = "SPAD+w4+UNJaeF8kLcsGdnDzfmA="
)

func socketHandshake(more ...string) []string {
	return append([]string{"Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Key: " + socketKey}, more...)
}

// handshakeForeign: what the kubelet forwards has the outer client's Host and Origin.
func handshakeForeign(t *trial) {
	foreign := []string{"Host: evil.test", "Origin: http://evil.test", "X-Forwarded-For: 192.0.2.1"}
	for _, lines := range [][]string{
		append(spdyHandshake("v4.channel.k8s.io"), foreign...),
		append(socketHandshake("Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: v4.channel.k8s.io"), foreign...),
	} {
		address, path := t.fresh()
		method := map[bool]string{true: "POST", false: "GET"}[strings.Contains(lines[1], "SPDY")]
		got, err := ask(t.ctx, address, method, path, lines...)
		if err != nil || got.status != http.StatusSwitchingProtocols {
			t.complain("%s: %v, %v", lines[1], got, err)
		}
		if slices.ContainsFunc(slices.Collect(keys(got.header)), func(name string) bool {
			return strings.HasPrefix(name, "Access-Control")
		}) {
			t.complain("%s: an answer for other sites: %v", lines[1], got)
		}
	}
	address, err := t.shared().execURL(t.ctx, outputs("echo", "out"))
	t.need(err, "a URL")
	w, err := upgrade(t.ctx, address, "v4.channel.k8s.io", foreign...)
	t.need(err, "upgrade")
	defer w.Close()
	ids, err := w.streams("error", "stdout", "stderr")
	t.need(err, "streams")
	if text, err := w.until(ids["stdout"]); text != "out\n" {
		t.complain("stdout %q, %v", text, err)
	}
}

func keys(header http.Header) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range header {
			if !yield(name) {
				return
			}
		}
	}
}

// until reads the data of a stream to its end.
func (w *wire) until(id uint32) (string, error) {
	w.SetReadDeadline(time.Now().Add(20 * time.Second))
	var text strings.Builder
	for {
		got, err := w.next()
		if err != nil {
			return text.String(), err
		}
		if got.kind == data && got.id == id {
			text.Write(got.payload)
			if got.flags&fin != 0 {
				return text.String(), nil
			}
		}
	}
}

func handshakeVersions(t *trial) {
	for _, each := range []struct {
		lines  []string
		status int
		chosen string
	}{
		{spdyHandshake("v5.channel.k8s.io", "v4.channel.k8s.io"), 101, ""},
		{spdyHandshake("v9.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io"), 101, "v3.channel.k8s.io"},
		{spdyHandshake("v9.channel.k8s.io"), 403, ""},
		{spdyHandshake(), 400, ""},
		{spdyHandshake(""), 400, ""},
		{[]string{"Content-Length: 0", "X-Stream-Protocol-Version: v4.channel.k8s.io"}, 400, ""},
		{[]string{"Connection: Upgrade", "Upgrade: SPDY/2", "Content-Length: 0", "X-Stream-Protocol-Version: v4.channel.k8s.io"}, 400, ""},
		{[]string{"Connection: keep-alive, upgrade", "Upgrade: spdy/3.1", "Content-Length: 0", "X-Stream-Protocol-Version: v4.channel.k8s.io"}, 101, "v4.channel.k8s.io"},
	} {
		address, path := t.fresh()
		got, err := ask(t.ctx, address, "POST", path, each.lines...)
		if err != nil || got.status != each.status {
			t.complain("%v: %v, not %d; %v", each.lines, got, each.status, err)
		}
		if got.status == http.StatusSwitchingProtocols && !got.upgrades("spdy/3.1") {
			t.complain("%v: an upgrade without its headers: %v", each.lines, got)
		}
		chosen := got.header.Get("X-Stream-Protocol-Version")
		if each.chosen != "" && chosen != each.chosen || each.status == 101 && chosen == "" {
			t.complain("%v: the server chose %q", each.lines, chosen)
		}
		if each.status == 403 && !slices.Contains(got.header.Values("X-Accepted-Stream-Protocol-Versions"), "v4.channel.k8s.io") {
			t.complain("a refusal does not tell what is spoken: %v", got)
		}
	}
}

func handshakeWebSocket(t *trial) {
	thirteen := "Sec-WebSocket-Version: 13"
	for _, each := range []struct {
		method string
		lines  []string
		status int
		want   string
	}{
		{"GET", socketHandshake(thirteen, "Sec-WebSocket-Protocol: none.test, v4.channel.k8s.io, v5.channel.k8s.io"), 101, "Sec-Websocket-Protocol: v4.channel.k8s.io"},
		{"GET", socketHandshake(thirteen), 101, "Upgrade: "},
		{"GET", socketHandshake(thirteen, "Sec-WebSocket-Protocol: none.test"), 403, ""},
		{"GET", socketHandshake("Sec-WebSocket-Version: 12"), 400, "Sec-Websocket-Version: 13"},
		{"GET", []string{"Connection: Upgrade", "Upgrade: websocket", thirteen}, 400, ""},
		{"POST", append(socketHandshake(thirteen), "Content-Length: 0"), 405, ""},
	} {
		address, path := t.fresh()
		got, err := ask(t.ctx, address, each.method, path, each.lines...)
		if err != nil || got.status != each.status || !strings.Contains(strings.ToLower(got.String()), strings.ToLower(each.want)) {
			t.complain("%s %v: %v, not %d with %q; %v", each.method, each.lines, got, each.status, each.want, err)
		}
		if got.status == http.StatusSwitchingProtocols && (!got.upgrades("websocket") || got.header.Get("Sec-Websocket-Accept") != accepted) {
			t.complain("an upgrade without its headers: %v", got)
		}
		if strings.Contains(got.String(), "Sec-Websocket-Extensions") {
			t.complain("an extension is agreed on: %v", got)
		}
	}
}

// handshakeUnmasked: a client's frame without a mask ends the session with close code 1002.
func handshakeUnmasked(t *trial) {
	address, err := t.shared().execURL(t.ctx, asked{command: []string{"cat"}, stdin: strings.NewReader(""), stdout: io.Discard})
	t.need(err, "a URL")
	s, err := dialChannels(t.ctx, address, "v5.channel.k8s.io")
	t.need(err, "a WebSocket")
	defer s.Close()
	_, err = s.NetConn().Write([]byte{0x82, 3, 0, 'h', 'i'})
	t.need(err, "a frame")
	g, err := s.collect()
	if g.code != 1002 {
		t.complain("close code %d, %v, outputs %q", g.code, err, g.outputs)
	}
}

// handshakeBadFrames: a frame that breaks the protocol ends its connection, soon.
func handshakeBadFrames(t *trial) {
	big := binary.BigEndian.AppendUint32(nil, 0x7fffffff)
	for what, bytes := range map[string][]byte{
		"an unknown kind":                   control(99, 0, numbers(1)),
		"settings with too large a count":   control(settings, 0, numbers(0x0fffffff)),
		"a stream with id 0":                syn(0, 0, nil),
		"a header block that is no zlib":    syn(1, 0, []byte("this is no header block at all")),
		"a SYN_STREAM that is too short":    control(synStream, 0, numbers(1)),
		"a ping of five bytes":              control(ping, 0, append(numbers(1), 0)),
		"a reset of status 0":               control(rstStream, 0, numbers(1, 0)),
		"a block of 2^31 headers":           syn(1, 0, compressed(big)),
		"a name of 2^31 bytes":              syn(1, 0, compressed(append(numbers(1), big...))),
		"an upper-case name":                syn(1, 0, compressed(pairs("StreamType", "error"))),
		"a block with bytes after its zlib": syn(1, 0, append(compressed(pairs("streamtype", "error")), 1, 2, 3, 4)),
	} {
		address, _ := t.fresh()
		w, err := upgrade(t.ctx, address, "v4.channel.k8s.io")
		t.need(err, "upgrade")
		_, err = w.Write(bytes)
		t.need(err, "%s", what)
		if err := w.closes(5 * time.Second); err != nil {
			t.complain("%s: %v", what, err)
		}
		w.Close()
	}
	t.same("after them", t.shared().run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
}

// compressed is the first header block of a connection.
func compressed(plain []byte) []byte {
	w := newPacker()
	return w.pack(plain)
}

// handshakeOneSegment: the first frames come in the same segment as the request.
func handshakeOneSegment(t *trial) {
	address, path := t.fresh()
	t.byBytes(address, path, func(c io.Writer, all []byte) error {
		_, err := c.Write(all)
		return err
	})
}

// handshakeCut: every byte comes alone.
func handshakeCut(t *trial) {
	address, path := t.fresh()
	t.byBytes(address, path, func(c io.Writer, all []byte) error {
		for _, one := range all {
			if _, err := c.Write([]byte{one}); err != nil {
				return err
			}
		}
		return nil
	})
}

// byBytes sends the request and the three streams of a session in the way that is given.
func (t *trial) byBytes(address, path string, send func(io.Writer, []byte) error) {
	connection, target, err := plug(t.ctx, address)
	t.need(err, "connect")
	defer connection.Close()
	w := newPacker()
	w.TCPConn, w.reader = connection, bufio.NewReader(connection)
	var all bytes.Buffer
	fmt.Fprintf(&all, "POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", path, target.Host, strings.Join(spdyHandshake("v4.channel.k8s.io"), "\r\n"))
	for i, kind := range []string{"error", "stdout", "stderr"} {
		all.Write(syn(uint32(2*i+1), 0, w.pack(pairs("streamtype", kind))))
	}
	t.need(send(connection, all.Bytes()), "sending")
	reply, err := http.ReadResponse(w.reader, nil)
	t.need(err, "the answer")
	if reply.StatusCode != http.StatusSwitchingProtocols {
		t.fail("%s", reply.Status)
	}
	if text, err := w.until(3); text != "out\n" {
		t.complain("stdout %q, %v", text, err)
	}
}

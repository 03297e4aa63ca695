package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// The kinds of SPDY frames that are spoken here; data is none of the wire's own.
const (
	data      uint16 = 0
	synStream uint16 = 1
	synReply  uint16 = 2
	rstStream uint16 = 3
	settings  uint16 = 4
	ping      uint16 = 6
	goAway    uint16 = 7
	headers   uint16 = 8

	fin byte = 1
)

// dictionaryMark begins a header block: zlib's two bytes and the name of the preset dictionary. What follows here never
// refers to the dictionary, so its text is not needed.
var dictionaryMark = []byte{0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2}

// wire is a SPDY connection by hand.
type wire struct {
	*net.TCPConn
	reader *bufio.Reader
	packer *flate.Writer
	packed bytes.Buffer
	marked bool
	last   uint32
}

// newPacker is a wire without a connection, which only compresses.
func newPacker() *wire {
	w := &wire{}
	// It fails only for a level that does not exist.
	w.packer, _ = flate.NewWriter(&w.packed, flate.BestCompression)
	return w
}

// frame is one frame as it came.
type frame struct {
	kind    uint16
	flags   byte
	id      uint32
	payload []byte
}

// plug opens a TCP connection to where a URL leads, and returns the path.
func plug(ctx context.Context, address string) (*net.TCPConn, *url.URL, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, nil, err
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.Host)
	if err != nil {
		return nil, nil, err
	}
	return connection.(*net.TCPConn), target, nil
}

// upgrade opens a SPDY connection by hand; extra are further lines of the request.
func upgrade(ctx context.Context, address, protocol string, extra ...string) (*wire, error) {
	connection, target, err := plug(ctx, address)
	if err != nil {
		return nil, err
	}
	host := "Host: " + target.Host
	if len(extra) > 0 && strings.HasPrefix(extra[0], "Host: ") {
		host, extra = extra[0], extra[1:]
	}
	lines := append([]string{"POST " + target.RequestURI() + " HTTP/1.1", host, "Connection: Upgrade", "Upgrade: SPDY/3.1",
		"Content-Length: 0", "X-Stream-Protocol-Version: " + protocol}, extra...)
	if _, err := io.WriteString(connection, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		connection.Close()
		return nil, err
	}
	w := newPacker()
	w.TCPConn, w.reader = connection, bufio.NewReaderSize(connection, 256<<10)
	connection.SetReadDeadline(time.Now().Add(20 * time.Second))
	reply, err := http.ReadResponse(w.reader, nil)
	if err != nil {
		connection.Close()
		return nil, err
	}
	if reply.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(reply.Body)
		connection.Close()
		return nil, fmt.Errorf("%s: %s", reply.Status, short(string(body)))
	}
	connection.SetReadDeadline(time.Time{})
	return w, nil
}

// pack compresses what a header block says.
func (w *wire) pack(plain []byte) []byte {
	w.packed.Reset()
	w.packer.Write(plain)
	w.packer.Flush()
	block := bytes.Clone(w.packed.Bytes())
	if !w.marked {
		w.marked = true
		block = append(bytes.Clone(dictionaryMark), block...)
	}
	return block
}

// pairs is a header block before compression.
func pairs(texts ...string) []byte {
	block := binary.BigEndian.AppendUint32(nil, uint32(len(texts)/2))
	for _, text := range texts {
		block = binary.BigEndian.AppendUint32(block, uint32(len(text)))
		block = append(block, text...)
	}
	return block
}

// control is a control frame whose length is that of its body.
func control(kind uint16, flags byte, body []byte) []byte {
	head := binary.BigEndian.AppendUint16([]byte{0x80, 3}, kind)
	head = append(head, flags, byte(len(body)>>16), byte(len(body)>>8), byte(len(body)))
	return append(head, body...)
}

// numbers is the body of a frame that has nothing else.
func numbers(all ...uint32) []byte {
	var body []byte
	for _, each := range all {
		body = binary.BigEndian.AppendUint32(body, each)
	}
	return body
}

// syn is a SYN_STREAM frame with a compressed block.
func syn(id uint32, flags byte, block []byte) []byte {
	return control(synStream, flags, append(append(numbers(id, 0), 0, 0), block...))
}

// create opens a stream; the reply is not waited for.
func (w *wire) create(texts ...string) (uint32, error) {
	if w.last == 0 {
		w.last = 1
	} else {
		w.last += 2
	}
	_, err := w.Write(syn(w.last, 0, w.pack(pairs(texts...))))
	return w.last, err
}

// send writes data to a stream.
func (w *wire) send(id uint32, flags byte, payload []byte) error {
	head := binary.BigEndian.AppendUint32(nil, id)
	head = append(head, flags, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)))
	_, err := w.Write(append(head, payload...))
	return err
}

// next reads a frame.
func (w *wire) next() (frame, error) {
	var head [8]byte
	if _, err := io.ReadFull(w.reader, head[:]); err != nil {
		return frame{}, err
	}
	got := frame{flags: head[4], payload: make([]byte, int(head[5])<<16|int(head[6])<<8|int(head[7]))}
	if _, err := io.ReadFull(w.reader, got.payload); err != nil {
		return got, err
	}
	if head[0]&0x80 == 0 {
		got.id = binary.BigEndian.Uint32(head[:])
		return got, nil
	}
	got.kind = binary.BigEndian.Uint16(head[2:])
	if len(got.payload) >= 4 {
		got.id = binary.BigEndian.Uint32(got.payload)
	}
	return got, nil
}

// streams opens the streams of an exec or attach session and waits for each reply; the ids are by kind.
func (w *wire) streams(kinds ...string) (map[string]uint32, error) {
	ids := map[string]uint32{}
	w.SetReadDeadline(time.Now().Add(20 * time.Second))
	defer w.SetReadDeadline(time.Time{})
	for _, kind := range kinds {
		id, err := w.create("streamtype", kind)
		if err != nil {
			return nil, err
		}
		got, err := w.next()
		if err != nil {
			return nil, err
		}
		if got.kind != synReply || got.id != id {
			return nil, fmt.Errorf("stream %s is answered by a frame of kind %d for stream %d", kind, got.kind, got.id)
		}
		ids[kind] = id
	}
	return ids, nil
}

// session is an exec or attach session by hand, with its streams by kind.
func session(ctx context.Context, address string, kinds ...string) (*wire, map[string]uint32, error) {
	w, err := upgrade(ctx, address, "v4.channel.k8s.io")
	if err != nil {
		return nil, nil, err
	}
	ids, err := w.streams(kinds...)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	return w, ids, nil
}

// closes waits until the server closes the connection, and reads what it says before.
func (w *wire) closes(limit time.Duration) error {
	w.SetReadDeadline(time.Now().Add(limit))
	_, err := io.Copy(io.Discard, w.reader)
	if timedOut(err) {
		return fmt.Errorf("the connection is still open after %v", limit)
	}
	return nil
}

// timedOut: nothing came until a deadline.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// unread opens a session of the check's transport that reads nothing after the beginning.
func (t *trial) unread(address string, kinds ...string) *net.TCPConn {
	if t.over == webSocket {
		c, err := dialChannels(t.ctx, address, "v5.channel.k8s.io")
		t.need(err, "a WebSocket")
		return c.NetConn().(*net.TCPConn)
	}
	w, _, err := session(t.ctx, address, kinds...)
	t.need(err, "a SPDY session")
	return w.TCPConn
}

// halfAttached attaches a client that reads nothing.
func (t *trial) halfAttached(c *container) *net.TCPConn {
	address, err := c.attachURL(t.ctx, asked{stdout: io.Discard, stderr: io.Discard})
	t.need(err, "a URL")
	connection := t.unread(address, "error", "stdout", "stderr")
	t.later(func() { connection.Close() })
	return connection
}

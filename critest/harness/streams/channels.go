package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// The channels of exec and attach over a WebSocket.
const (
	stdinChannel  byte = 0
	stdoutChannel byte = 1
	stderrChannel byte = 2
	errorChannel  byte = 3
	resizeChannel byte = 4
	closeChannel  byte = 255
)

// channels is a WebSocket whose messages begin with the number of a channel.
type channels struct {
	*websocket.Conn
	// text: the protocol has base64 in text messages.
	text bool
}

// dialChannels opens one; no protocol at all is a protocol too.
func dialChannels(ctx context.Context, address, protocol string) (*channels, error) {
	dialer := websocket.Dialer{HandshakeTimeout: 20 * time.Second}
	if protocol != "" {
		dialer.Subprotocols = []string{protocol}
	}
	c, reply, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(address, "http"), http.Header{})
	if err != nil {
		if reply != nil {
			body, _ := io.ReadAll(reply.Body)
			return nil, fmt.Errorf("%w: %s: %s", err, reply.Status, short(string(body)))
		}
		return nil, err
	}
	if c.Subprotocol() != protocol {
		c.Close()
		return nil, fmt.Errorf("the server chose %q, offered was %q", c.Subprotocol(), protocol)
	}
	c.SetReadDeadline(time.Now().Add(time.Minute))
	return &channels{c, strings.Contains(protocol, "base64")}, nil
}

// message is what travels for some bytes on a channel.
func (c *channels) message(channel byte, payload []byte) []byte {
	if c.text {
		return append([]byte{'0' + channel}, base64.StdEncoding.EncodeToString(payload)...)
	}
	return append([]byte{channel}, payload...)
}

func (c *channels) send(channel byte, payload []byte) error {
	kind := websocket.BinaryMessage
	if c.text {
		kind = websocket.TextMessage
	}
	return c.WriteMessage(kind, c.message(channel, payload))
}

func (c *channels) receive() (byte, []byte, error) {
	kind, got, err := c.ReadMessage()
	if err != nil {
		return 0, nil, err
	}
	if want := map[bool]int{true: websocket.TextMessage, false: websocket.BinaryMessage}[c.text]; kind != want {
		return 0, nil, fmt.Errorf("a message of kind %d, not %d", kind, want)
	}
	if len(got) == 0 {
		return 0, nil, fmt.Errorf("a message without a channel")
	}
	if !c.text {
		return got[0], got[1:], nil
	}
	payload, err := base64.StdEncoding.DecodeString(string(got[1:]))
	return got[0] - '0', payload, err
}

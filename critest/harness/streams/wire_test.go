package main

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

func TestABlockIsWhatZlibReads(t *testing.T) {
	w := newPacker()
	first := w.pack(pairs("streamtype", "error"))
	second := w.pack(pairs("streamtype", "data", "port", "80"))

	// The mark without the flag and name of a dictionary: the blocks refer to none.
	plain, err := zlib.NewReader(io.MultiReader(bytes.NewReader([]byte{0x78, 0x9c}), bytes.NewReader(first[6:]), bytes.NewReader(second)))
	if err != nil {
		t.Fatal(err)
	}
	want := append(pairs("streamtype", "error"), pairs("streamtype", "data", "port", "80")...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(plain, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, not %q, %v", got, want, err)
	}
}

func TestAControlFrameTellsItsLength(t *testing.T) {
	frame := control(ping, 0, numbers(7))
	if len(frame) != 12 || binary.BigEndian.Uint32(frame[4:]) != 4 || !bytes.HasPrefix(frame, []byte{0x80, 3, 0, 6}) {
		t.Errorf("% x", frame)
	}
}

func TestBase64ChannelsAreText(t *testing.T) {
	c := &channels{text: true}
	if got := string(c.message(stdoutChannel, []byte("hi"))); got != "1aGk=" {
		t.Error(got)
	}
}

func TestOnlyWhatFollowsTheTicksCounts(t *testing.T) {
	if got := told("tick\ntick\n" + lines(2, 3)); got != "line 000\nline 001\nover\n" || strings.Contains(got, "tick") {
		t.Errorf("%q", got)
	}
}

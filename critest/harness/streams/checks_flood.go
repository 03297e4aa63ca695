package main

import (
	"bytes"
	"compress/flate"
	"io"
	"time"
)

var floodChecks = []check{
	{name: "flood.settings-count", run: floodSettings},
	{name: "flood.header-bomb", run: floodHeaderBomb},
	{name: "flood.many-headers", run: floodManyHeaders},
	{name: "flood.large-frame", run: floodLargeFrame},
	{name: "flood.streams", run: floodStreams},
	{name: "flood.pings", run: floodPings},
	{name: "flood.resets", run: floodResets},
	{name: "flood.data-for-nobody", run: floodData},
	{name: "flood.resizes", run: floodResizes},
}

// besieged runs an attack on a session of its own: the server closes it or survives it, others are served all the while,
// and the server does not grow.
func (t *trial) besieged(streams bool, attack func(*wire) error) {
	c := t.shared()
	address, err := c.execURL(t.ctx, outputs("sh", "-c", "sleep 5"))
	t.need(err, "a URL")
	w, err := upgrade(t.ctx, address, "v4.channel.k8s.io")
	t.need(err, "upgrade")
	defer w.Close()
	if streams {
		_, err = w.streams("error", "stdout", "stderr")
		t.need(err, "streams")
	}
	t.same("before it", c.run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
	var grown func() int64
	if t.pid != 0 {
		grown = t.growth()
	}
	began := make(chan time.Time, 1)
	ended, closed := make(chan error, 1), make(chan bool, 1)
	go func() {
		began <- time.Now()
		w.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			_, err := io.Copy(io.Discard, w.reader)
			closed <- !timedOut(err)
		}()
		ended <- attack(w)
	}()
	start := <-began
	time.Sleep(20 * time.Millisecond)
	asked := time.Now()
	t.same("meanwhile", c.run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
	t.measure("an exec meanwhile", time.Since(asked).Seconds(), "s")
	<-ended
	t.measure("the attack", time.Since(start).Seconds(), "s")
	select {
	case by := <-closed:
		t.measure("closed by the server", map[bool]float64{true: 1}[by], "")
	case <-time.After(300 * time.Millisecond):
		t.measure("closed by the server", 0, "")
	}
	if grown != nil {
		most := grown()
		t.measure("growth", float64(most)/(1<<20), "MiB")
		if most > t.room {
			t.complain("the server grew by %.1f MiB", float64(most)/(1<<20))
		}
	}
	t.same("after it", c.run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
}

func floodSettings(t *trial) {
	t.besieged(false, func(w *wire) error {
		_, err := w.Write(control(settings, 0, append(numbers(0x0fffffff), 0, 0, 0, 1)))
		return err
	})
}

// bomb is a header block that is small on the wire and large after it.
func bomb(size int64) []byte {
	var packed bytes.Buffer
	packer, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		return nil
	}
	packer.Write(numbers(1, 4))
	packer.Write([]byte("name"))
	packer.Write(numbers(uint32(size)))
	zeros := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(zeros)) {
		packer.Write(zeros[:min(left, int64(len(zeros)))])
	}
	packer.Flush()
	return append(bytes.Clone(dictionaryMark), packed.Bytes()...)
}

func floodHeaderBomb(t *trial) {
	block := bomb(1 << 30)
	t.besieged(false, func(w *wire) error {
		_, err := w.Write(syn(1, 0, block))
		return err
	})
}

func floodManyHeaders(t *trial) {
	var texts []string
	for range 1 << 20 {
		texts = append(texts, "a", "")
	}
	block := compressed(pairs(texts...))
	t.besieged(false, func(w *wire) error {
		_, err := w.Write(syn(1, 0, block))
		return err
	})
}

// floodLargeFrame begins frames of the greatest length, and sends them slowly to their end.
func floodLargeFrame(t *trial) {
	t.besieged(false, func(w *wire) error {
		body := make([]byte, 1<<24-1)
		if _, err := w.Write(control(headers, 0, body)); err != nil {
			return err
		}
		return w.send(1, 0, body)
	})
}

func floodStreams(t *trial) {
	t.besieged(false, func(w *wire) error {
		for range 10000 {
			if _, err := w.create("streamtype", "error", "port", "80"); err != nil {
				return err
			}
		}
		return nil
	})
}

// repeated sends the same bytes many times, a thousand in one piece.
func repeated(w *wire, thousands int, one func(i int) []byte) error {
	for i := range thousands {
		var all []byte
		for j := range 1000 {
			all = append(all, one(i*1000+j)...)
		}
		if _, err := w.Write(all); err != nil {
			return err
		}
	}
	return nil
}

func floodPings(t *trial) {
	t.besieged(true, func(w *wire) error {
		return repeated(w, 300, func(i int) []byte { return control(ping, 0, numbers(uint32(2*i+1))) })
	})
}

func floodResets(t *trial) {
	t.besieged(true, func(w *wire) error {
		return repeated(w, 100, func(int) []byte {
			w.last += 2
			return append(syn(w.last, 0, w.pack(pairs("streamtype", "stdin"))), control(rstStream, 0, numbers(w.last, 5))...)
		})
	})
}

func floodData(t *trial) {
	t.besieged(true, func(w *wire) error {
		block := make([]byte, 1<<20)
		for range 100 {
			if err := w.send(77, 0, block); err != nil {
				return err
			}
		}
		return nil
	})
}

// floodResizes: many sizes for a terminal, without an end of an object too.
func floodResizes(t *trial) {
	c := t.shared()
	address, err := c.execURL(t.ctx, asked{command: []string{"sleep", "5"}, stdin: bytes.NewReader(nil), stdout: io.Discard, tty: true})
	t.need(err, "a URL")
	w, ids, err := session(t.ctx, address, "error", "stdin", "stdout", "resize")
	t.need(err, "a session")
	defer w.Close()
	var grown func() int64
	if t.pid != 0 {
		grown = t.growth()
	}
	w.SetDeadline(time.Now().Add(30 * time.Second))
	go io.Copy(io.Discard, w.reader)
	sizes := bytes.Repeat([]byte(`{"Width":80,"Height":24}`+"\n"), 1000)
	for range 100 {
		if err := w.send(ids["resize"], 0, sizes); err != nil {
			break
		}
	}
	open := append([]byte(`{"Width":`), bytes.Repeat([]byte(" "), 1<<20)...)
	for range 64 {
		if err := w.send(ids["resize"], 0, open); err != nil {
			break
		}
	}
	t.same("after it", c.run(t, spdyStreams, "echo", "fine"), 0, "fine\n", "")
	if grown != nil {
		most := grown()
		t.measure("growth", float64(most)/(1<<20), "MiB")
		if most > t.room {
			t.complain("the server grew by %.1f MiB", float64(most)/(1<<20))
		}
	}
}

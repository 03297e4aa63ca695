package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The ports of the services in the shared container.
const (
	echoPort   = 7001 // gives back what it gets, and ends after its peer
	sumPort    = 7002 // reads to the end, then tells the digest
	sourcePort = 7003 // reads a line with a number, sends so many bytes, ends, then reads to the end
	resetPort  = 7004 // reads a line, answers it, then resets the connection
	sixPort    = 7005 // echo, on ::1 alone
	mutePort   = 7006 // accepts and says nothing
	latePort   = 7007 // reads to the end, and answers three seconds later
	closedPort = 7099 // nobody listens

	// onHostBy moves the ports of the same services in the host's network.
	onHostBy = 100
)

// inside is this program as it runs in a container.
func inside(name string, arguments []string) {
	var err error
	switch name {
	case "serve":
		err = serve(arguments[0])
	case "emit":
		err = emit(arguments)
	case "chatter":
		err = chatter(arguments[0])
	case "relay":
		err = relay(arguments[0], arguments[1], arguments[2] == "splice")
	default:
		err = fmt.Errorf("no program is called %q", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "streams:", err)
		os.Exit(1)
	}
}

// noise is a stream of bytes that a seed decides.
func noise(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

// emit writes so many bytes to stdout, and as many others to stderr at the same time where the second word is both.
func emit(arguments []string) error {
	size, err := strconv.ParseInt(arguments[0], 10, 64)
	if err != nil {
		return err
	}
	var wait sync.WaitGroup
	outputs := []*os.File{os.Stdout}
	if len(arguments) > 1 && arguments[1] == "both" {
		outputs = append(outputs, os.Stderr)
	}
	for i, output := range outputs {
		wait.Go(func() {
			if _, failed := io.CopyN(output, noise(byte(i+1)), size); failed != nil {
				err = failed
			}
		})
	}
	wait.Wait()
	return err
}

// chatter ticks until a line comes, then writes numbered lines: COUNT,WIDTH,PAUSE-IN-MICROSECONDS.
func chatter(plan string) error {
	var count, width, pause int
	if _, err := fmt.Sscanf(plan, "%d,%d,%d", &count, &width, &pause); err != nil {
		return err
	}
	begin := make(chan struct{})
	go func() {
		if line, _ := bufio.NewReader(os.Stdin).ReadString('\n'); line != "" {
			close(begin)
		}
	}()
	for waiting := true; waiting; {
		select {
		case <-begin:
			waiting = false
		case <-time.After(50 * time.Millisecond):
			fmt.Println("tick")
		}
	}
	output := bufio.NewWriter(os.Stdout)
	for i := range count {
		fmt.Fprintf(output, "line %0*d\n", width, i)
		if pause > 0 {
			output.Flush()
			time.Sleep(time.Duration(pause) * time.Microsecond)
		}
	}
	fmt.Fprintln(output, "over")
	return output.Flush()
}

// lines is what chatter writes after its ticks.
func lines(count, width int) string {
	var text strings.Builder
	for i := range count {
		fmt.Fprintf(&text, "line %0*d\n", width, i)
	}
	return text.String() + "over\n"
}

// serve is every service, for ever.
func serve(where string) error {
	by := 0
	if where == "host" {
		by = onHostBy
	}
	services := map[int]func(*net.TCPConn){echoPort: echo, sumPort: sum, sourcePort: source, resetPort: reset,
		mutePort: mute, latePort: late}
	for port, service := range services {
		if err := listen(fmt.Sprintf("127.0.0.1:%d", port+by), service); err != nil {
			return err
		}
	}
	if err := listen(fmt.Sprintf("[::1]:%d", sixPort+by), echo); err != nil {
		return err
	}
	if where != "bare" {
		if err := os.WriteFile("/tmp/ready", []byte("ready\n"), 0o644); err != nil {
			return err
		}
	}
	select {}
}

func listen(address string, service func(*net.TCPConn)) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			accepted, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer accepted.Close()
				service(accepted.(*net.TCPConn))
			}()
		}
	}()
	return nil
}

func echo(c *net.TCPConn) { io.Copy(c, c) }

func sum(c *net.TCPConn) {
	digest := sha256.New()
	size, err := io.Copy(digest, c)
	fmt.Fprintf(c, "%d %x %v\n", size, digest.Sum(nil), err)
}

// blockSize is the length after which the source begins anew: making bytes must not be what takes the time. It is no
// multiple of what anybody copies at once, so bytes in a wrong place show.
const blockSize = 1<<20 + 7

// sourceDigest is the digest of what the source sends.
func sourceDigest(size int64) string {
	block := make([]byte, blockSize)
	noise(3).Read(block)
	digest := sha256.New()
	for left := size; left > 0; left -= blockSize {
		digest.Write(block[:min(left, blockSize)])
	}
	return fmt.Sprintf("%x", digest.Sum(nil))
}

func source(c *net.TCPConn) {
	reader := bufio.NewReader(c)
	line, _ := reader.ReadString('\n')
	size, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return
	}
	block := make([]byte, blockSize)
	noise(3).Read(block)
	for size > 0 {
		part := block[:min(size, blockSize)]
		if _, err := c.Write(part); err != nil {
			return
		}
		size -= int64(len(part))
	}
	c.CloseWrite()
	io.Copy(io.Discard, reader)
}

func reset(c *net.TCPConn) {
	line, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Fprintf(c, "answer to %s", line)
	time.Sleep(100 * time.Millisecond)
	c.SetLinger(0)
}

func late(c *net.TCPConn) {
	io.Copy(io.Discard, c)
	time.Sleep(3 * time.Second)
	fmt.Fprintln(c, "late")
}

func mute(*net.TCPConn) { select {} }

// relay passes each connection to LISTEN on to TARGET: what a forwarder is measured against.
func relay(address, target string, splice bool) error {
	err := listen(address, func(c *net.TCPConn) {
		far, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer far.Close()
		var wait sync.WaitGroup
		wait.Go(func() { pump(far.(*net.TCPConn), c, splice) })
		wait.Go(func() { pump(c, far.(*net.TCPConn), splice) })
		wait.Wait()
	})
	if err != nil {
		return err
	}
	select {}
}

// pump copies one way and passes the end on. Go copies between two sockets within the kernel, unless it is kept from it.
func pump(to, from *net.TCPConn, splice bool) {
	if splice {
		io.Copy(to, from)
	} else {
		io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	}
	to.CloseWrite()
}

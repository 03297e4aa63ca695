package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

var crictlChecks = []check{
	{name: "crictl.exec", both: true, run: crictlExec},
	{name: "crictl.exec-terminal", both: true, run: crictlExecTerminal},
	{name: "crictl.attach-terminal", both: true, run: crictlAttachTerminal},
	{name: "crictl.attach-detach", both: true, run: crictlDetach},
	{name: "crictl.port-forward", both: true, run: crictlForward},
}

// tool is a command of crictl with the transport of the check.
func (t *trial) tool(name string, arguments ...string) *exec.Cmd {
	if t.crictl == "" {
		t.skip("there is no crictl (-crictl)")
	}
	ctx, cancel := context.WithCancel(t.ctx)
	t.later(cancel)
	config := filepath.Join(t.work, "crictl.yaml")
	t.need(os.WriteFile(config, []byte("timeout: 30\n"), 0o644), "a configuration")
	all := append([]string{"--config", config, "--runtime-endpoint", t.endpoint, name, "-r", string(t.over)}, arguments...)
	return exec.CommandContext(ctx, t.crictl, all...)
}

func crictlExec(t *trial) {
	c := t.shared()
	command := t.tool("exec", "-i", c.id, "sh", "-c", "cat; echo err >&2")
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader("hello\n"), &stdout, &stderr
	if err := command.Run(); err != nil || stdout.String() != "hello\n" || stderr.String() != "err\n" {
		t.complain("stdout %q, stderr %q, %v", stdout.String(), short(stderr.String()), err)
	}
	output, err := t.tool("exec", c.id, "sh", "-c", "echo out; exit 7").CombinedOutput()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || !strings.HasPrefix(string(output), "out\n") || !strings.Contains(string(output), "exit code 7") {
		t.complain("a failing command: %s, %v", short(string(output)), err)
	}
}

// screen is a crictl on a terminal.
type screen struct {
	*gathered
	file  *os.File
	ended chan error
}

func (t *trial) screen(command *exec.Cmd, width, height uint16) *screen {
	far, line, err := pty(width, height)
	t.need(err, "a terminal")
	onTerminal(command, line)
	t.need(command.Start(), "crictl")
	line.Close()
	s := &screen{newGathered(), far, make(chan error, 1)}
	t.later(func() {
		command.Process.Kill()
		far.Close()
	})
	go io.Copy(s.gathered, far)
	go func() { s.ended <- command.Wait() }()
	return s
}

// keyed types, and waits for a text.
func (t *trial) keyed(s *screen, keys, text string) {
	_, err := io.WriteString(s.file, keys)
	t.need(err, "keys")
	err = t.until(10*time.Second, func() error {
		if !strings.Contains(s.String(), text) {
			return fmt.Errorf("no %q on the screen", text)
		}
		return nil
	})
	if err != nil {
		t.fail("after %q: %v: %s", keys, err, short(s.String()))
	}
}

// prompted presses enter until the shell shows its prompt: what is typed before crictl has the terminal may be lost.
func (t *trial) prompted(s *screen) {
	err := t.until(10*time.Second, func() error {
		if strings.Contains(s.String(), "# ") {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
		_, err := io.WriteString(s.file, "\r")
		return errors.Join(err, errors.New("no prompt"))
	})
	if err != nil {
		t.fail("%v: %s", err, short(s.String()))
	}
}

// leaves waits for the end of crictl.
func (t *trial) leaves(s *screen, well bool) {
	select {
	case err := <-s.ended:
		if (err == nil) != well {
			t.complain("crictl ended with %v; the screen: %s", err, short(s.String()))
		}
	case <-time.After(10 * time.Second):
		t.complain("crictl does not end; the screen: %s", short(s.String()))
	}
}

func crictlExecTerminal(t *trial) {
	s := t.screen(t.tool("exec", "-it", t.shared().id, "sh"), 101, 43)
	t.prompted(s)
	t.keyed(s, "stty size; tty; echo $((6*7))th\r", "42th\r\n")
	if !strings.Contains(s.String(), "43 101\r\n") {
		t.complain("the size is missing: %s", short(s.String()))
	}
	t.need(resize(s.file, 120, 50), "a size")
	t.keyed(s, "until [ \"$(stty size 2>/dev/null)\" = '50 120' ]; do sleep 0.1; done; echo sized\r", "\nsized")
	t.keyed(s, "sleep 100\r", "sleep 100\r\n")
	time.Sleep(300 * time.Millisecond)
	t.keyed(s, "\x03", "^C")
	t.keyed(s, "echo after-$((1+1))\r", "after-2\r\n")
	_, err := io.WriteString(s.file, "exit 3\r")
	t.need(err, "keys")
	t.leaves(s, false)
}

func crictlAttachTerminal(t *trial) {
	c := t.own(wish{command: []string{"sh"}, stdin: true, tty: true})
	s := t.screen(t.tool("attach", "-it", c.id), 99, 42)
	t.prompted(s)
	t.keyed(s, "echo $((6*7))th; until [ \"$(stty size 2>/dev/null)\" = '42 99' ]; do sleep 0.1; done; echo sized\r", "\nsized")
	t.keyed(s, "echo after-$((1+1))\r", "after-2\r\n")
	_, err := io.WriteString(s.file, "exit\r")
	t.need(err, "keys")
	t.leaves(s, true)
}

// crictlDetach: the detach keys end crictl and not the shell, to which another crictl attaches.
func crictlDetach(t *trial) {
	c := t.own(wish{command: []string{"sh"}, stdin: true, tty: true})
	for i := range 3 {
		s := t.screen(t.tool("attach", "-it", c.id), 99, 42)
		t.prompted(s)
		t.keyed(s, fmt.Sprintf("x=${x}%d; echo [$x]\r", i), "["+"012"[:i+1]+"]\r\n")
		_, err := s.file.Write([]byte{16, 17})
		t.need(err, "the detach keys")
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
			t.fail("crictl does not detach; the screen: %s", short(s.String()))
		}
	}
}

func crictlForward(t *trial) {
	c := t.shared()
	s := t.screen(t.tool("port-forward", c.pod.id, fmt.Sprintf("17001:%d", echoPort), fmt.Sprintf("17005:%d", sixPort)), 80, 24)
	for _, port := range []int{17001, 17005} {
		t.keyed(s, "", fmt.Sprintf("127.0.0.1:%d", port))
		far, err := local(port)
		t.need(err, "the local port")
		t.echoes(far, 1<<20)
	}
	_, err := io.WriteString(s.file, "\x03")
	t.need(err, "keys")
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		t.complain("crictl does not end after an interrupt: %s", short(s.String()))
	}
}

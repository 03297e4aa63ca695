package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var tokenChecks = []check{
	{name: "token.once", run: tokenOnce},
	{name: "token.other-path", run: tokenOtherPath},
	{name: "token.one-answer", run: tokenOneAnswer},
	{name: "token.no-upgrade", run: tokenNoUpgrade},
	{name: "token.strangers", run: tokenStrangers},
	{name: "token.length", run: tokenLength},
	{name: "token.expires", full: true, limit: 3 * time.Minute, run: tokenExpires},
	{name: "token.too-many", full: true, limit: 4 * time.Minute, run: tokenTooMany},
	{name: "token.removed-container", run: tokenRemoved},
}

var upgradeLines = spdyHandshake("v4.channel.k8s.io")

// refused complains of an answer that is not the one of a token that nobody knows.
func (t *trial) refused(what string, got answer, err error) {
	if err != nil || got.status != http.StatusNotFound {
		t.complain("%s: %v, not 404; %v", what, got, err)
		return
	}
	if got.header.Get("Content-Length") == "" {
		t.complain("%s: an answer without Content-Length: %v", what, got)
	}
	for name := range got.header {
		if strings.HasPrefix(name, "Access-Control") {
			t.complain("%s: an answer for other sites: %v", what, got)
		}
	}
}

func tokenOnce(t *trial) {
	address, path := t.fresh()
	got, err := ask(t.ctx, address, "POST", path, upgradeLines...)
	if err != nil || got.status != http.StatusSwitchingProtocols {
		t.complain("the first time: %v, %v", got, err)
	}
	got, err = ask(t.ctx, address, "POST", path, upgradeLines...)
	t.refused("the second time", got, err)
}

// tokenOtherPath: a token is bound to its method, and tried with another it is used up.
func tokenOtherPath(t *trial) {
	address, path := t.fresh()
	for _, method := range []string{"/attach/", "/portforward/"} {
		other := strings.Replace(path, "/exec/", method, 1)
		if other == path {
			t.fail("the path of an exec is %s", path)
		}
		got, err := ask(t.ctx, address, "POST", other, upgradeLines...)
		t.refused(method, got, err)
		got, err = ask(t.ctx, address, "POST", path, upgradeLines...)
		t.refused("its own path after "+method, got, err)
		address, path = t.fresh()
	}
}

// tokenOneAnswer: unknown, used and burned tokens cannot be told apart.
func tokenOneAnswer(t *trial) {
	address, used := t.fresh()
	_, err := ask(t.ctx, address, "POST", used, upgradeLines...)
	t.need(err, "the use of a token")
	_, burned := t.fresh()
	_, err = ask(t.ctx, address, "POST", strings.Replace(burned, "/exec/", "/attach/", 1), upgradeLines...)
	t.need(err, "the burning of a token")
	var first string
	for _, path := range []string{used, burned, "/exec/AAAAAAAA", "/exec/" + strings.Repeat("B", len(used)-len("/exec/"))} {
		got, err := ask(t.ctx, address, "POST", path, upgradeLines...)
		t.refused(path, got, err)
		if first == "" {
			first = got.String()
		} else if first != got.String() {
			t.complain("two answers: %s and %s", first, got)
		}
	}
}

// tokenNoUpgrade: with a token and without an upgrade the answer ends, and nothing runs.
func tokenNoUpgrade(t *trial) {
	c := t.shared()
	address, err := c.execURL(t.ctx, outputs("touch", "/tmp/must-not-be"))
	t.need(err, "a URL")
	target, err := url.Parse(address)
	t.need(err, "the URL")
	got, err := ask(t.ctx, address, "GET", target.RequestURI())
	if err != nil || got.status < 400 || got.status > 499 {
		t.complain("%v, %v", got, err)
	}
	time.Sleep(300 * time.Millisecond)
	if _, err := c.sync(t.ctx, "sh", "-c", "[ ! -e /tmp/must-not-be ]"); err != nil {
		t.complain("the command ran: %v", err)
	}
}

// tokenStrangers: what a page or a pod would try that reaches the port.
func tokenStrangers(t *trial) {
	address, _ := t.fresh()
	for _, each := range []struct{ method, path string }{
		{"GET", "/"}, {"OPTIONS", "/"}, {"OPTIONS", "/exec/x"}, {"GET", "/exec"}, {"GET", "/exec/"}, {"GET", "/exec/x/y"},
		{"POST", "//exec/x"}, {"POST", "/..//exec/x"}, {"POST", "/%2e%2e/exec/x"}, {"GET", "/attach/x"}, {"GET", "/portforward/x"},
		{"PUT", "/exec/x"}, {"DELETE", "/exec/x"}, {"GET", "/metrics"}, {"GET", "/debug/pprof/"}, {"TRACE", "/exec/x"},
	} {
		what := each.method + " " + each.path
		got, err := ask(t.ctx, address, each.method, each.path, "Origin: http://evil.test", "Content-Length: 0",
			"Access-Control-Request-Method: POST")
		if err == nil && got.status == http.StatusMethodNotAllowed && each.method != "GET" && each.method != "POST" {
			got.status = http.StatusNotFound
		}
		t.refused(what, got, err)
	}
}

// tokenLength: 256 bits cannot be guessed.
func tokenLength(t *trial) {
	seen := map[string]bool{}
	for range 20 {
		_, path := t.fresh()
		token := path[strings.LastIndex(path, "/")+1:]
		if len(token) < 43 || seen[token] {
			t.complain("a token of %d characters, seen before: %v", len(token), seen[token])
			return
		}
		seen[token] = true
	}
}

func tokenExpires(t *trial) {
	address, path := t.fresh()
	_, late := t.fresh()
	time.Sleep(50 * time.Second)
	got, err := ask(t.ctx, address, "POST", path, upgradeLines...)
	if err != nil || got.status != http.StatusSwitchingProtocols {
		t.complain("after 50 s: %v, %v", got, err)
	}
	time.Sleep(12 * time.Second)
	got, err = ask(t.ctx, address, "POST", late, upgradeLines...)
	t.refused("after 62 s", got, err)
}

// tokenTooMany: one container cannot hold every place for longer than its life.
func tokenTooMany(t *trial) {
	c := t.own(wish{command: []string{"sleep", "1000"}})
	shared := t.shared()
	a := outputs("true")
	refused := 0
	for range 1100 {
		_, err := c.execURL(t.ctx, a)
		if status.Code(err) == codes.ResourceExhausted || err != nil && strings.Contains(err.Error(), codes.ResourceExhausted.String()) {
			refused++
		} else if err != nil {
			t.fail("a URL: %v", err)
		}
	}
	if refused < 100 || refused > 1000 {
		t.complain("%d of 1100 requests are refused", refused)
	}
	_, err := c.runtime.RemoveContainer(t.ctx, &pb.RemoveContainerRequest{ContainerId: c.id})
	t.need(err, "RemoveContainer")
	began := time.Now()
	err = t.until(70*time.Second, func() error {
		_, err := shared.execURL(t.ctx, a)
		return err
	})
	t.measure("another container waits for a place", time.Since(began).Seconds(), "s")
	if err != nil || time.Since(began) > 2*time.Second {
		t.complain("the places are not free at once: %v", err)
	}
}

// tokenRemoved: a token dies with its container.
func tokenRemoved(t *trial) {
	c := t.own(wish{command: []string{"sleep", "1000"}})
	address, err := c.execURL(t.ctx, outputs("true"))
	t.need(err, "a URL")
	target, err := url.Parse(address)
	t.need(err, "the URL")
	t.need(c.remove(t.ctx), "RemoveContainer")
	got, err := ask(t.ctx, address, "POST", target.RequestURI(), upgradeLines...)
	if err != nil || got.status == http.StatusSwitchingProtocols {
		// It may be taken, and must say then that the container is gone.
		text := fmt.Sprint(got, err)
		if got.status != http.StatusSwitchingProtocols {
			t.complain("%s", text)
		}
	}
}

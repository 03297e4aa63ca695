package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

func TestAListedFailureOfThePeerIsNone(t *testing.T) {
	page := filepath.Join(t.TempDir(), "STATUS.md")
	text := "# x\n\n## Streaming checks that the peer fails\n\n| checks | RPC | reason |\n|---|---|---|\n| `exec\\.[a-z]+` | `Exec` | it cannot |\n"
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	peer, err := peerFails(page)
	if err != nil {
		t.Fatal(err)
	}
	r := &report{peer: peer}

	r.add(&trial{name: "exec.output", wrong: []string{"nothing came"}}, time.Second)
	r.add(&trial{name: "exec.output/spdy", wrong: []string{"nothing came"}}, time.Second)
	r.add(&trial{name: "exec.more"}, time.Second)

	for i, want := range []string{"PEER", "FAIL", "PASS"} {
		if r.records[i].Verdict != want {
			t.Errorf("verdict %d is %s, not %s", i, r.records[i].Verdict, want)
		}
	}
	if r.close() == nil {
		t.Error("a failure that is not listed does not fail the run")
	}
}

func TestTheTableOfThePeerCanBeRead(t *testing.T) {
	peer, err := peerFails("../../STATUS.md")
	if err != nil {
		t.Fatal(err)
	}
	all := plan(regexp.MustCompile(""), "both")
	for _, row := range peer {
		found := false
		for _, each := range all {
			found = found || row.checks.MatchString(each.name)
		}
		if !found {
			t.Errorf("no check matches %s", row.checks)
		}
	}
}

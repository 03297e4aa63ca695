package main

import (
	"slices"
	"strings"
	"testing"

	"podwright.local/critest/status"
)

const noExec = "rpc error: code = Unimplemented desc = method Exec not implemented"

func TestMissing(t *testing.T) {
	read := func(text string) map[string]bool {
		t.Helper()
		fields, err := fieldsOf(text)
		if err != nil {
			t.Fatal(err)
		}
		return fields
	}
	for name, test := range map[string]struct {
		mine, peer string
		want       []string
	}{
		"the same":                 {`{"a": 1}`, `{"a": 2}`, nil},
		"a key that is not there":  {`{"b": 1}`, `{"a": 1}`, []string{"a"}},
		"a key that is not set":    {`{"a": ""}`, `{"a": "x"}`, []string{"a"}},
		"nothing is set by either": {`{}`, `{"a": "", "b": 0, "c": false, "d": null, "e": {}, "f": [], "g": "0"}`, nil},
		"the head of a whole tree": {`{"a": {}}`, `{"a": {"b": {"c": 1, "d": 2}}}`, []string{"a"}},
		"part of a tree":           {`{"a": {"b": {"c": 1}}}`, `{"a": {"b": {"c": 1, "d": 2}}}`, []string{"a.b.d"}},
		"lists are one":            {`[{"a": 1}, {"b": 1}]`, `[{"a": 1, "b": 1}]`, nil},
		"named elements are not":   {`[{"type": "x"}]`, `[{"type": "y"}]`, []string{"[y]"}},
		"names that are random":    {`{"veth01": 1}`, `{"veth02": 1}`, nil},
		"what came from a disk": {
			`{"s": {"majorPageFaults": {"value": "0"}}, "m": []}`,
			`{"s": {"majorPageFaults": {"value": "3"}}, "m": [{"name": "container_fs_reads_total"}]}`,
			[]string{"m"},
		},
		"several documents": {`{"a": 1} {"b": 1}`, `{"b": 1} {"c": 1}`, []string{"c"}},
		"lines":             {"Version: 1\nName:", "Version: 2\nName: x", []string{"Name"}},
		"ours alone":        {`{"a": 1, "b": 2}`, `{"a": 1}`, nil},
	} {
		if got := missing(read(test.mine), read(test.peer)); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, text := range []string{"", "{", `{"a": 1} x`} {
		if fields, err := fieldsOf(text); err == nil {
			t.Errorf("%q was read as %v", text, fields)
		}
	}
}

func TestAnExceptionCoversAllBelowItsKeyAndNoOther(t *testing.T) {
	tree := &exception{step: "info", field: "config.a"}
	for field, covered := range map[string]bool{
		"config.a": true, "config.a.b": true, "config.a[x]": true, "config.ab": false, "config": false,
	} {
		if tree.covers("info", field) != covered || tree.covers("info quiet", field) != covered || tree.covers("inspect", field) {
			t.Errorf("%s: %v", field, !covered)
		}
	}
}

// session is one step with podwright and with the peer, and the lists that they are held to.
type session struct {
	mine, peer answer
	pending    map[string]status.Pending
	accepted   []*exception
}

func TestJudge(t *testing.T) {
	waits := map[string]status.Pending{"exec": {RPC: "Exec", Owner: "issue 7 (streaming)"}}
	fields := func(names ...string) map[string]bool {
		set := map[string]bool{}
		for _, name := range names {
			set[name] = true
		}
		return set
	}
	for name, test := range map[string]struct {
		session
		want string
	}{
		"both do it":            {session{}, ""},
		"we fail":               {session{mine: answer{Wrong: "timed out"}}, "exec: timed out"},
		"the peer fails":        {session{peer: answer{Wrong: "timed out"}}, "by the peer"},
		"pending":               {session{mine: answer{Wrong: "x", Stderr: noExec}, pending: waits}, ""},
		"pending, works":        {session{pending: waits}, "take it off the list"},
		"pending, fails oddly":  {session{mine: answer{Wrong: "x", Stderr: "timed out"}, pending: waits}, "not why it failed"},
		"pending, not listed":   {session{mine: answer{Wrong: noExec, Stderr: noExec}}, "Unimplemented"},
		"pending, no such step": {session{pending: map[string]status.Pending{"dance": {RPC: "Dance"}}}, "which is no step"},
		"a field is missing":    {session{peer: answer{Fields: fields("a")}}, "the peer sets a"},
		"a field of ours alone": {session{mine: answer{Fields: fields("a")}}, ""},
		"a missing field is accepted": {session{peer: answer{Fields: fields("a")},
			accepted: []*exception{{step: "exec", field: "a"}}}, ""},
		"a field missing anywhere is accepted": {session{peer: answer{Fields: fields("a[b].c", "d.c")},
			accepted: []*exception{{step: "exec", field: "*.c"}}}, ""},
		"an accepted field is there": {session{mine: answer{Fields: fields("a")}, peer: answer{Fields: fields("a")},
			accepted: []*exception{{step: "exec", field: "a"}}}, "not missing (any more)"},
	} {
		t.Run(name, func(t *testing.T) {
			test.mine.Step, test.peer.Step = "exec", "exec"
			v := judge([]answer{test.mine}, []answer{test.peer}, test.pending, test.accepted, false)
			said := strings.Join(v.complaints, "; ")
			if test.want == "" && said != "" || len(v.complaints) > 1 || !strings.Contains(said, test.want) {
				t.Fatalf("said %q, want %q", said, test.want)
			}
		})
	}
}

func TestThePeerIsHeldToWhatItCannotDo(t *testing.T) {
	able := []answer{{Step: "exec by websocket"}}
	v := judge(nil, able, nil, nil, false)
	if len(v.complaints) != 1 || !strings.Contains(v.complaints[0], "the peer can do it") {
		t.Fatalf("said %q", v.complaints)
	}
	unable := []answer{{Step: "exec by websocket", Wrong: "403"}}
	if v := judge(nil, unable, nil, nil, false); len(v.complaints) != 0 {
		t.Fatalf("said %q", v.complaints)
	}
}

func TestALooseJudgementTellsNothingOfThePeer(t *testing.T) {
	peer := []answer{{Step: "exec by websocket"}, {Step: "exec", Wrong: "timed out"}}
	mine := []answer{{Step: "exec", Wrong: "timed out"}}
	v := judge(mine, peer, nil, []*exception{{step: "exec", field: "a"}}, true)
	if len(v.complaints) != 1 || v.complaints[0] != "exec: timed out" {
		t.Fatalf("said %q", v.complaints)
	}
}

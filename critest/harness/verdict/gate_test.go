package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"podwright.local/critest/status"
)

const noExec = "call: rpc error: code = Unimplemented desc = method Exec not implemented"

func held() *gate {
	return &gate{
		lane:     "lane",
		baseline: map[string][]string{"lane": {"solid"}, "another": {"elsewhere"}},
		pending:  map[string]status.Pending{"waits": {RPC: "Exec", Owner: "issue 7 (streaming)"}},
	}
}

func TestJudge(t *testing.T) {
	for name, test := range map[string]struct {
		spec
		want string
	}{
		"what passed passes":         {spec{Name: "solid", State: passed}, ""},
		"a new spec passes":          {spec{Name: "new", State: passed}, ""},
		"pending, UNIMPLEMENTED":     {spec{Name: "waits", State: failed, Message: noExec}, ""},
		"another lane's baseline":    {spec{Name: "elsewhere", State: skipped}, ""},
		"a regression":               {spec{Name: "solid", State: failed, Message: "x"}, "passed before: solid"},
		"a regression to pending":    {spec{Name: "solid", State: failed, Message: noExec}, "passed before: solid"},
		"a regression to a skip":     {spec{Name: "solid", State: skipped}, "passed before and is skipped now: solid"},
		"a failure of a new spec":    {spec{Name: "new", State: failed, Message: noExec}, "new"},
		"pending, passes unlisted":   {spec{Name: "waits", State: passed}, "passes now, so take it off"},
		"pending, fails otherwise":   {spec{Name: "waits", State: failed, Message: "timed out"}, "that is not why it failed"},
		"pending, another RPC":       {spec{Name: "waits", State: failed, Message: strings.ReplaceAll(noExec, "Exec", "Attach")}, "that is not why it failed"},
		"pending, skipped":           {spec{Name: "waits", State: skipped}, "nobody sees what it waits for"},
		"a failure outside any spec": {spec{Name: "[BeforeSuite]", State: failed}, "[BeforeSuite]"},
	} {
		t.Run(name, func(t *testing.T) {
			complaints := held().judge([]spec{test.spec})
			if test.want == "" && len(complaints) > 0 || test.want != "" && len(complaints) != 1 {
				t.Fatalf("said %q", complaints)
			}
			if test.want != "" && !strings.Contains(complaints[0], test.want) {
				t.Fatalf("said %q, not %q", complaints[0], test.want)
			}
		})
	}
}

func TestAPeerIsHeldToNothingButItsFailures(t *testing.T) {
	specs := []spec{{Name: "a", State: passed}, {Name: "b", State: skipped}, {Name: "c", State: failed, Message: noExec}}
	if complaints := (&gate{}).judge(specs); !slices.Equal(complaints, []string{"c"}) {
		t.Fatalf("said %q", complaints)
	}
}

func TestAWholeRunHasAllThatTheListsName(t *testing.T) {
	complaints := held().absent([]spec{{Name: "new", State: passed}})
	want := []string{"is pending and did not run: waits", "passed before and did not run: solid"}
	if !slices.Equal(complaints, want) {
		t.Fatalf("said %q", complaints)
	}
}

func TestWhatIsExpectedPasses(t *testing.T) {
	specs := []spec{{Name: "a", State: passed}, {Name: "b", State: skipped}}
	complaints := unmet("# remark\na\n\nb\nc\n", specs)
	if !slices.Equal(complaints, []string{"was expected to pass: b", "was expected to pass: c"}) {
		t.Fatalf("said %q", complaints)
	}
}

func TestTheBaselineOnlyGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "baseline.json")
	g := held()
	specs := []spec{{Name: "new", State: passed}, {Name: "bad", State: failed}, {Name: "off", State: skipped}}
	if err := g.compare(path, specs, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("it was written without being asked to grow")
	}
	if err := g.compare(path, specs, true); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	grown, err := parseBaseline(data)
	want := map[string][]string{"lane": {"new", "solid"}, "another": {"elsewhere"}}
	if err != nil || !maps.EqualFunc(grown, want, slices.Equal) {
		t.Fatalf("wrote %v, %v", grown, err)
	}
}

func TestWhatAnEarlierCommitHeldIsMissed(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "baseline.json")
	git := func(arguments ...string) {
		t.Helper()
		command := exec.Command("git", append([]string{"-C", folder, "-c", "user.name=a", "-c", "user.email=a@b.c"}, arguments...)...)
		if said, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", arguments, err, said)
		}
	}
	git("init", "--quiet")
	for _, text := range []string{`{"lane": ["a", "b"]}`, `{"lane": ["b"]}`, `{"lane": ["b", "c"]}`} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", ".")
		git("commit", "--quiet", "-m", "x")
	}
	lost, err := lostSince(path, map[string][]string{"lane": {"b", "c"}})
	if err != nil || !slices.Equal(lost, []string{`"lane": a`}) {
		t.Fatalf("lost %q, %v", lost, err)
	}
}

// The program as a whole: what it reads from files, and whether it is content.
func TestRun(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	told := options{
		report:   filepath.Join(folder, "report.json"),
		out:      filepath.Join(folder, "result.json"),
		baseline: write("baseline.json", `{"lane": ["A solid"]}`),
		status:   write("STATUS.md", "# S\n\n## Pending specs\n| `A waits` | `Exec` | issue 7 (streaming) |\n"),
		lane:     "lane",
		whole:    true,
	}
	const row = `{"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"%s","State":"%s","Failure":{"Message":"%s"}}`
	for name, test := range map[string]struct {
		solid, waits, why string
		good              bool
	}{
		"as before":                 {"passed", "failed", noExec, true},
		"a panic is a failure":      {"passed", "panicked", noExec, true},
		"a regression":              {"failed", "failed", noExec, false},
		"an unlisted pending pass":  {"passed", "passed", "", false},
		"pending for other reasons": {"passed", "failed", "connection refused", false},
		"filtered away":             {"passed", "skipped", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			write("report.json", `[{"SpecReports":[`+fmt.Sprintf(row, "solid", test.solid, "")+","+
				fmt.Sprintf(row, "waits", test.waits, test.why)+`]}]`)
			good, err := run(told)
			if err != nil || good != test.good {
				t.Fatalf("good: %v, %v", good, err)
			}
		})
	}
}

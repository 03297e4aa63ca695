package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a driver whose crictl is a shell script. The script sees the arguments behind the global options.
func fake(t *testing.T, script string) *driver {
	t.Helper()
	program := filepath.Join(t.TempDir(), "crictl")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nshift 4\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := newDriver(program, "unix:///nowhere", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWhatIsWanted(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		step
		wrong string
	}{
		"it does":              {"echo yes", step{want: "^yes$"}, ""},
		"it says other things": {"echo no", step{want: "^yes$"}, "does not match"},
		"it fails":             {"echo yes; exit 1", step{want: "^yes$"}, "exit status 1"},
		"it fails as it must":  {"echo NotFound >&2; exit 1", step{fails: true, want: "NotFound"}, ""},
		"it must fail":         {"true", step{fails: true}, "must not"},
		"it fails otherwise":   {"echo Internal >&2; exit 1", step{fails: true, want: "NotFound"}, "nothing that matches"},
		"it is not there":      {"echo 'code = Unimplemented' >&2; exit 1", step{fails: true, want: "."}, "not there"},
		"it must not be there": {"echo 'code = Unimplemented' >&2; exit 1", step{fails: true, want: unimplemented}, ""},
		"it speaks on stderr":  {"echo yes >&2", step{want: "^yes$", stderr: true}, ""},
		"it does not end":      {"echo yes; exec sleep 100", step{want: "^yes$", until: true}, ""},
		"it ends too early":    {"echo no", step{want: "^yes$", until: true}, "never came"},
		"it reads":             {"cat", step{want: "^typed$", stdin: "typed\n"}, ""},
		"it reads on":          {"read -r a; echo got $a; exec sleep 100", step{want: "^got it$", stdin: "it\n", until: true}, ""},
		"its output is read":   {"echo '{'", step{want: ".", fields: true}, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			test.step.name = name
			got := fake(t, test.script).call(test.step)
			if test.wrong == "" && got.Wrong != "" || !strings.Contains(got.Wrong, test.wrong) {
				t.Fatalf("wrong: %q, want %q", got.Wrong, test.wrong)
			}
		})
	}
}

func TestWhatAStepSavedIsFilledIn(t *testing.T) {
	d := fake(t, `case $1 in make) echo noise; echo abcdef ;; *) echo "$@" ;; esac`)
	answers := d.run([]step{
		{name: "make", args: []string{"make"}, save: "ID"},
		{name: "use", args: []string{"use", "{ID}", "{ID:3}", "{OTHER}", "{WORK}"}, want: "^use {ID} abc .OTHER. {WORK}$"},
	})
	for _, each := range answers {
		if each.Wrong != "" {
			t.Errorf("%s: %s", each.Step, each.Wrong)
		}
	}
}

func TestAPageAnswersWhileTheCommandRuns(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }))
	defer server.Close()
	d := fake(t, "echo Forwarding; exec sleep 100")
	if got := d.call(step{page: server.URL, want: "Forwarding"}); got.Wrong != "" {
		t.Errorf("a page that answers: %s", got.Wrong)
	}
	d = fake(t, "echo refused >&2; exit 1")
	if got := d.call(step{page: "http://127.0.0.1:1/", want: "Forwarding"}); !strings.Contains(got.Wrong, "refused") {
		t.Errorf("a command that fails: %q", got.Wrong)
	}
}

func TestWhatRunsAsideIsEndedBehindTheOthers(t *testing.T) {
	d := fake(t, `case $1 in events) echo seen; exec sleep 100 ;; esac`)
	answers := d.run([]step{{name: "events", args: []string{"events"}, want: "seen", aside: true}, {name: "then", args: []string{"x"}}})
	if len(answers) != 2 || answers[0].Step != "then" || answers[1].Wrong != "" {
		t.Fatalf("answers: %+v", answers)
	}
}

func TestStepsHaveNamesOfTheirOwnAndPatternsThatCompile(t *testing.T) {
	seen := map[string]bool{}
	for _, each := range steps() {
		if seen[each.name] {
			t.Errorf("%q stands twice", each.name)
		}
		seen[each.name] = true
		if command, _, _ := strings.Cut(each.name, " "); command != each.args[0] {
			t.Errorf("%q runs %q", each.name, each.args[0])
		}
	}
}

func TestEveryCommandOfCrictlIsUsed(t *testing.T) {
	help := "NAME:\n   crictl\n\nCOMMANDS:\n   attach     Attach\n   images, img   List\n   config  X\n   dance   Dance\n" +
		"   help, h    Help\n\nGLOBAL OPTIONS:\n   --config value  X\n"
	if left := unused(help, steps()); len(left) != 1 || left[0] != "dance" {
		t.Fatalf("left: %q", left)
	}
}

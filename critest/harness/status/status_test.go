package status

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func page(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "STATUS.md")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRowsOfOneSectionAreRead(t *testing.T) {
	path := page(t, "# X\n\n## Pending specs\nWords.\n\n| spec | RPC | owner |\n|---|---|---|\n"+
		"| `a [b] c` | `Exec` | issue 7 (streaming) |\n\n## Other\n| `d` | `Attach` | issue 7 (streaming) |\n")
	pending, err := ReadPending(path, Specs)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Pending{"Exec", "issue 7 (streaming)"}); len(pending) != 1 || pending["a [b] c"] != want {
		t.Fatalf("read %v", pending)
	}
	if _, err := ReadPending(path, Commands); err == nil {
		t.Fatal("a section that is not there was read")
	}
}

func TestEveryRowHasAnOwner(t *testing.T) {
	for _, row := range []string{"| `a` | `Exec` | streaming |", "| `a` |  | issue 7 (streaming) |", "| `a` | `Exec` |"} {
		path := page(t, "# X\n\n## Pending specs\n"+row+"\n")
		if pending, err := ReadPending(path, Specs); err == nil {
			t.Errorf("%s was read as %v", row, pending)
		}
	}
	row := "| `a` | `Exec` | issue 7 (streaming) |\n"
	_, err := ReadPending(page(t, "\n## Pending specs\n"+row+row), Specs)
	if err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a row that stands twice: %v", err)
	}
}

func TestOnlyItsOwnRPCExplainsAFailure(t *testing.T) {
	exec := Pending{RPC: "Exec"}
	for message, explains := range map[string]bool{
		"call: rpc error: code = Unimplemented desc = method Exec not implemented":     true,
		"call: rpc error: code = Unimplemented desc = method ExecSync not implemented": false,
		"call: rpc error: code = Internal desc = method Exec not implemented":          false,
		"timed out": false,
	} {
		if exec.Explains(message) != explains {
			t.Errorf("%q: %v", message, !explains)
		}
	}
}

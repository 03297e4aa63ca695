// Package status reads the tables of STATUS.md: what waits for an RPC that is not there yet, and what is accepted.
package status

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Pending is something that waits for an RPC.
type Pending struct {
	// RPC is the method that answers UNIMPLEMENTED.
	RPC string
	// Owner is the issue that brings it.
	Owner string
}

// The sections of STATUS.md that are read.
const (
	Specs    = "Pending specs"
	Commands = "Pending commands"
	Fields   = "Fields that the peer alone sets"
	Streams  = "Streaming checks that the peer fails"
)

var owner = regexp.MustCompile(`^issue [0-9]+ \([a-z ]+\)$`)

// Explains tells whether a message says that the RPC is not implemented. Nothing else is a reason to be pending.
func (p Pending) Explains(message string) bool {
	return strings.Contains(message, "code = Unimplemented desc = method "+p.RPC+" not implemented")
}

func (p Pending) String() string { return "no " + p.RPC + ", " + p.Owner }

// ReadPending returns what a section lists as pending, by name.
func ReadPending(path, section string) (map[string]Pending, error) {
	rows, err := Rows(path, section)
	if err != nil {
		return nil, err
	}
	pending := map[string]Pending{}
	for _, row := range rows {
		if _, twice := pending[row[0]]; twice {
			return nil, fmt.Errorf("%s: %q stands twice under %q", path, row[0], section)
		}
		if row[1] == "" || !owner.MatchString(row[2]) {
			return nil, fmt.Errorf("%s: %q under %q wants the RPC it waits for and an owner such as `issue 7 (streaming)`",
				path, row[0], section)
		}
		pending[row[0]] = Pending{RPC: row[1], Owner: row[2]}
	}
	return pending, nil
}

// Rows returns the three cells of each row of a section's table. The first cell is code; its backticks are taken away.
func Rows(path, section string) ([][3]string, error) {
	page, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	_, rest, found := strings.Cut(string(page), "\n## "+section+"\n")
	if !found {
		return nil, fmt.Errorf("%s has no section %q", path, section)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	var rows [][3]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 3 {
			return nil, fmt.Errorf("%s: a row under %q has %d cells, not 3: %s", path, section, len(cells), line)
		}
		rows = append(rows, [3]string{code(cells[0]), code(cells[1]), strings.TrimSpace(cells[2])})
	}
	return rows, nil
}

func code(cell string) string { return strings.Trim(strings.TrimSpace(cell), "`") }

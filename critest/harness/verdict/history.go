package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// shrunk returns what stands in an older baseline and no longer in this one.
func shrunk(older, newer map[string][]string) []string {
	var lost []string
	for lane, specs := range older {
		for _, name := range specs {
			if !slices.Contains(newer[lane], name) {
				lost = append(lost, fmt.Sprintf("%q: %s", lane, name))
			}
		}
	}
	slices.Sort(lost)
	return lost
}

// lostSince returns what any commit's baseline held and the one given does not. Outside a repository there is none.
func lostSince(path string, now map[string][]string) ([]string, error) {
	folder, file := filepath.Dir(path), filepath.Base(path)
	log, err := exec.Command("git", "-C", folder, "log", "--format=%H", "--diff-filter=AM", "--", file).Output()
	if err != nil {
		fmt.Println("critest: there is no history of baseline.json here, so nobody can tell whether it shrank")
		return nil, nil
	}
	var lost []string
	for _, commit := range strings.Fields(string(log)) {
		data, err := exec.Command("git", "-C", folder, "show", commit+":./"+file).Output()
		if err != nil {
			return nil, fmt.Errorf("read baseline.json of commit %s: %w", commit, err)
		}
		older, err := parseBaseline(bytes.TrimSpace(data))
		if err != nil {
			return nil, fmt.Errorf("baseline.json of commit %s: %w", commit, err)
		}
		lost = append(lost, shrunk(older, now)...)
	}
	slices.Sort(lost)
	return slices.Compact(lost), nil
}

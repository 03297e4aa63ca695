package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// gate is what a run is held to: the specs that passed before, and those that are known to wait for something.
// The zero gate knows neither: there every failure counts.
type gate struct {
	lane     string
	baseline map[string][]string
	// pending: spec -> why, and whose it is.
	pending map[string]string
}

func readGate(path, lane, status string) (*gate, error) {
	read := &gate{lane: lane, baseline: map[string][]string{}, pending: map[string]string{}}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &read.baseline); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	page, err := os.ReadFile(status)
	if err != nil {
		return nil, err
	}
	_, page2, _ := strings.Cut(string(page), "\n## Pending\n")
	section, _, _ := strings.Cut(page2, "\n## ")
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 3 || !strings.HasPrefix(strings.TrimSpace(cells[0]), "`") {
			continue
		}
		name := strings.Trim(strings.TrimSpace(cells[0]), "`")
		read.pending[name] = strings.TrimSpace(cells[1]) + " (" + strings.TrimSpace(cells[2]) + ")"
	}
	return read, nil
}

// judge returns what is wrong with the run.
func (g *gate) judge(specs []spec) []string {
	var complaints []string
	for _, each := range specs {
		_, listed := g.pending[each.Name]
		must := slices.Contains(g.baseline[g.lane], each.Name)
		switch {
		case each.State == passed && listed:
			complaints = append(complaints, "passes now, so take it off the list in STATUS.md: "+each.Name)
		case each.State == skipped && must:
			complaints = append(complaints, "passed before and is skipped now: "+each.Name)
		case each.State == failed && must:
			complaints = append(complaints, "passed before: "+each.Name)
		case each.State == failed && !listed:
			complaints = append(complaints, each.Name)
		}
	}
	return complaints
}

// compare tells which specs pass that the baseline does not hold, and adds them where it shall grow.
func (g *gate) compare(path string, specs []spec, grow bool) error {
	known := g.baseline[g.lane]
	before := len(known)
	for _, each := range specs {
		if each.State == passed && !slices.Contains(known, each.Name) {
			known = append(known, each.Name)
		}
	}
	added := len(known) - before
	if added == 0 {
		return nil
	}
	if !grow {
		fmt.Printf("critest: %d specs pass that baseline.json does not hold for %q: GROW=1 adds them\n", added, g.lane)
		return nil
	}
	slices.Sort(known)
	g.baseline[g.lane] = known
	data, err := json.MarshalIndent(g.baseline, "", "  ")
	if err != nil {
		return err
	}
	fmt.Printf("critest: baseline.json holds %d specs more for %q\n", added, g.lane)
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"podwright.local/critest/status"
)

// gate is what a run is held to: the specs that passed before, and those that are known to wait for an RPC.
// The zero gate knows neither: there every failure counts.
type gate struct {
	lane     string
	baseline map[string][]string
	pending  map[string]status.Pending
}

func readGate(path, lane, page string) (*gate, error) {
	pending, err := status.ReadPending(page, status.Specs)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	baseline, err := parseBaseline(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &gate{lane: lane, baseline: baseline, pending: pending}, nil
}

func parseBaseline(data []byte) (map[string][]string, error) {
	baseline := map[string][]string{}
	err := json.Unmarshal(data, &baseline)
	return baseline, err
}

// judge returns what is wrong with the run.
func (g *gate) judge(specs []spec) []string {
	var complaints []string
	for _, each := range specs {
		row, listed := g.pending[each.Name]
		must := slices.Contains(g.baseline[g.lane], each.Name)
		switch {
		case each.State == passed && listed:
			complaints = append(complaints, "passes now, so take it off the list in STATUS.md: "+each.Name)
		case each.State == skipped && listed:
			complaints = append(complaints, "is pending and is skipped, so nobody sees what it waits for: "+each.Name)
		case each.State == skipped && must:
			complaints = append(complaints, "passed before and is skipped now: "+each.Name)
		case each.State == failed && must:
			complaints = append(complaints, "passed before: "+each.Name)
		case each.State == failed && listed && !row.Explains(each.Message):
			complaints = append(complaints, fmt.Sprintf("is pending for want of %s, yet that is not why it failed: %s",
				row.RPC, each.Name))
		case each.State == failed && !listed:
			complaints = append(complaints, each.Name)
		}
	}
	return complaints
}

// absent returns what the baseline or the list of pending specs names and a whole run did not have: such a row guards
// nothing.
func (g *gate) absent(specs []spec) []string {
	ran := map[string]bool{}
	for _, each := range specs {
		ran[each.Name] = true
	}
	var complaints []string
	for _, name := range g.baseline[g.lane] {
		if !ran[name] {
			complaints = append(complaints, "passed before and did not run: "+name)
		}
	}
	for name := range g.pending {
		if !ran[name] {
			complaints = append(complaints, "is pending and did not run: "+name)
		}
	}
	slices.Sort(complaints)
	return complaints
}

// unmet returns which of the expected specs, a line each, did not pass. A line that begins with # is a remark.
func unmet(expected string, specs []spec) []string {
	did := map[string]bool{}
	for _, each := range specs {
		did[each.Name] = each.State == passed
	}
	var complaints []string
	for line := range strings.Lines(expected) {
		name := strings.TrimSpace(line)
		if name != "" && !strings.HasPrefix(name, "#") && !did[name] {
			complaints = append(complaints, "was expected to pass: "+name)
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

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	passed  = "passed"
	failed  = "failed"
	skipped = "skipped"
	// shown is how many lines of each log stand beside a failure.
	shown = 15
)

// spec is what came of one spec.
type spec struct {
	Name    string    `json:"name"`
	State   string    `json:"state"`
	Seconds float64   `json:"seconds"`
	Message string    `json:"message,omitempty"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
}

// readReport returns the specs that ran or skipped themselves, in order of their names. What a filter left out is no
// part of it, and neither are the benchmarks.
func readReport(path string) ([]spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the suite left no report: %w", err)
	}
	var suites []struct {
		SuiteSucceeded             bool
		SpecialSuiteFailureReasons []string
		SpecReports                []struct {
			ContainerHierarchyTexts []string
			LeafNodeType            string
			LeafNodeText            string
			State                   string
			StartTime, EndTime      time.Time
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, err
	}
	var specs []spec
	for _, suite := range suites {
		for _, each := range suite.SpecReports {
			// A filtered spec is skipped without a word; one that skips itself says why.
			filtered := each.State == skipped && each.Failure.Message == ""
			if filtered || each.State == "pending" || (each.LeafNodeType != "It" && each.State == passed) {
				continue
			}
			state := each.State
			if state != passed && state != skipped {
				state = failed
			}
			name := strings.Join(append(each.ContainerHierarchyTexts, each.LeafNodeText), " ")
			if each.LeafNodeType != "It" {
				name = "[" + each.LeafNodeType + "]"
			}
			specs = append(specs, spec{name, state, each.EndTime.Sub(each.StartTime).Seconds(),
				strings.TrimSpace(each.Failure.Message), each.StartTime, each.EndTime})
		}
	}
	slices.SortFunc(specs, func(a, b spec) int { return strings.Compare(a.Name, b.Name) })
	return specs, nil
}

// linesWithin returns the last lines of a log from the time between start and end.
func linesWithin(log string, start, end time.Time) []string {
	file, err := os.Open(log)
	if err != nil {
		return nil
	}
	defer file.Close()
	var found []string
	within := false
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		line := scanner.Text()
		if at, told := timeOf(line); told {
			within = !at.Before(start.Add(-time.Second)) && !at.After(end.Add(time.Second))
		}
		if within {
			found = append(found, line)
		}
	}
	return found[max(0, len(found)-shown):]
}

// timeOf reads the time that a line of podwright's or containerd's log begins with.
func timeOf(line string) (time.Time, bool) {
	line = strings.TrimPrefix(line, `time="`)
	stamp, _, _ := strings.Cut(line, " ")
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSuffix(stamp, `"`))
	return at, err == nil
}

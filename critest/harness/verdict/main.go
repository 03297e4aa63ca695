// Command verdict reads the suite's JSON report, says what came of it, and judges it.
//
//	verdict -report report.json -out result.json [-logs a.log,b.log]
//		[-baseline baseline.json -lane NAME -status STATUS.md] [-whole] [-expect NAMES] [-grow]
//
// Without a baseline (a run of the peer) every failure counts. The last line it prints is the count of specs.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// options is what the command line says.
type options struct {
	report, out, logs, baseline, lane, status, expect string
	whole, grow                                       bool
}

func main() {
	var told options
	flag.StringVar(&told.report, "report", "", "the suite's JSON report")
	flag.StringVar(&told.out, "out", "", "where the result is written, as JSON")
	flag.StringVar(&told.logs, "logs", "", "logs whose lines a failure shows, with commas between")
	flag.StringVar(&told.baseline, "baseline", "", "what must pass")
	flag.StringVar(&told.lane, "lane", "", "the part of the baseline that applies")
	flag.StringVar(&told.status, "status", "", "the page that lists what is pending")
	flag.StringVar(&told.expect, "expect", "", "a file of specs, one a line, which must all pass")
	flag.BoolVar(&told.whole, "whole", false, "the whole suite ran: all that the lists name must be in the report")
	flag.BoolVar(&told.grow, "grow", false, "add to the baseline what passes now")
	flag.Parse()
	good, err := run(told)
	if err != nil {
		fmt.Fprintln(os.Stderr, "critest: FAILED:", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

func run(told options) (bool, error) {
	specs, err := readReport(told.report)
	if err != nil {
		return false, err
	}
	gate := &gate{}
	if told.baseline != "" {
		if gate, err = readGate(told.baseline, told.lane, told.status); err != nil {
			return false, err
		}
	}
	count := show(specs, gate, strings.Split(told.logs, ","))
	data, err := json.MarshalIndent(specs, "", "  ")
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(told.out, append(data, '\n'), 0o644); err != nil {
		return false, err
	}
	complaints, err := complaintsOf(specs, gate, told)
	if err != nil {
		return false, err
	}
	for _, complaint := range complaints {
		fmt.Println("critest: FAILED:", complaint)
	}
	if gate.baseline != nil {
		if err := gate.compare(told.baseline, specs, told.grow); err != nil {
			return false, err
		}
	}
	fmt.Printf("critest: %d passed, %d failed, %d skipped\n", count[passed], count[failed], count[skipped])
	return len(complaints) == 0 && count[passed] > 0, nil
}

// complaintsOf returns what is wrong with the run and with the lists that it is held to.
func complaintsOf(specs []spec, gate *gate, told options) ([]string, error) {
	complaints := gate.judge(specs)
	if told.whole {
		complaints = append(complaints, gate.absent(specs)...)
	}
	if told.expect != "" {
		page, err := os.ReadFile(told.expect)
		if err != nil {
			return nil, err
		}
		complaints = append(complaints, unmet(string(page), specs)...)
	}
	if gate.baseline == nil {
		return complaints, nil
	}
	lost, err := lostSince(told.baseline, gate.baseline)
	for _, each := range lost {
		complaints = append(complaints, "baseline.json only grows, and has lost "+each)
	}
	return complaints, err
}

// show prints failures, then skips, and counts the specs by state.
func show(specs []spec, gate *gate, logs []string) map[string]int {
	count := map[string]int{}
	var skips []string
	for _, each := range specs {
		count[each.State]++
		switch each.State {
		case skipped:
			skips = append(skips, fmt.Sprintf("%s: %s", each.Name, each.Message))
		case failed:
			tell(each, gate, logs)
		}
	}
	slices.Sort(skips)
	for _, skip := range skips {
		fmt.Println("skipped:", skip)
	}
	return count
}

func tell(each spec, gate *gate, logs []string) {
	if row, listed := gate.pending[each.Name]; listed && row.Explains(each.Message) {
		fmt.Printf("pending: %s: %s\n", each.Name, row)
		return
	}
	fmt.Printf("\nfailed: %s\n  %s\n", each.Name, strings.ReplaceAll(each.Message, "\n", "\n  "))
	for _, log := range logs {
		for _, line := range linesWithin(log, each.Start, each.End) {
			fmt.Println("  |", line)
		}
	}
	fmt.Println()
}

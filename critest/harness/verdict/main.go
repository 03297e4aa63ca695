// Command verdict reads the suite's JSON report, says what came of it, and judges it.
//
//	verdict -report report.json -out result.json [-logs a.log,b.log] [-baseline baseline.json -lane NAME -status STATUS.md] [-grow]
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

func main() {
	report := flag.String("report", "", "the suite's JSON report")
	out := flag.String("out", "", "where the result is written, as JSON")
	logs := flag.String("logs", "", "logs whose lines a failure shows, with commas between")
	baseline := flag.String("baseline", "", "what must pass")
	lane := flag.String("lane", "", "the part of the baseline that applies")
	status := flag.String("status", "", "the page that lists what is pending")
	grow := flag.Bool("grow", false, "add to the baseline what passes now")
	flag.Parse()
	good, err := run(*report, *out, *logs, *baseline, *lane, *status, *grow)
	if err != nil {
		fmt.Fprintln(os.Stderr, "critest: FAILED:", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

func run(report, out, logs, baseline, lane, status string, grow bool) (bool, error) {
	specs, err := readReport(report)
	if err != nil {
		return false, err
	}
	gate := &gate{}
	if baseline != "" {
		if gate, err = readGate(baseline, lane, status); err != nil {
			return false, err
		}
	}
	count := map[string]int{}
	var skips []string
	for _, each := range specs {
		count[each.State]++
		switch each.State {
		case skipped:
			skips = append(skips, fmt.Sprintf("%s: %s", each.Name, each.Message))
		case failed:
			tell(each, gate, strings.Split(logs, ","))
		}
	}
	slices.Sort(skips)
	for _, skip := range skips {
		fmt.Println("skipped:", skip)
	}
	data, err := json.MarshalIndent(specs, "", "  ")
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(out, append(data, '\n'), 0o644); err != nil {
		return false, err
	}
	complaints := gate.judge(specs)
	for _, complaint := range complaints {
		fmt.Println("critest: FAILED:", complaint)
	}
	if gate.baseline != nil {
		if err := gate.compare(baseline, specs, grow); err != nil {
			return false, err
		}
	}
	fmt.Printf("critest: %d passed, %d failed, %d skipped\n", count[passed], count[failed], count[skipped])
	return len(complaints) == 0 && count[passed]+count[skipped] > 0, nil
}

func tell(each spec, gate *gate, logs []string) {
	if row, listed := gate.pending[each.Name]; listed {
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

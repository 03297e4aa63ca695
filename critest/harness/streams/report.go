package main

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"podwright.local/critest/status"
)

// report collects the verdicts.
type report struct {
	out string
	// peer has what the peer fails, and why; nil where the server is held to everything.
	peer    []*excuse
	records []record
	counts  map[string]int
}

// excuse is a row of the page: the checks whose name matches may fail, for a known reason.
type excuse struct {
	checks *regexp.Regexp
	reason string
}

func peerFails(page string) ([]*excuse, error) {
	rows, err := status.Rows(page, status.Streams)
	if err != nil {
		return nil, err
	}
	var all []*excuse
	for _, row := range rows {
		pattern, err := regexp.Compile("^(?:" + row[0] + ")$")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", page, err)
		}
		if row[2] == "" {
			return nil, fmt.Errorf("%s: %s fails without a reason", page, row[0])
		}
		all = append(all, &excuse{checks: pattern, reason: row[2]})
	}
	return all, nil
}

// excused is the row that knows of a check.
func (r *report) excused(name string) *excuse {
	for _, each := range r.peer {
		if each.checks.MatchString(name) {
			return each
		}
	}
	return nil
}

func (r *report) add(t *trial, took time.Duration) {
	known := r.excused(t.name)
	one := record{Check: t.name, Seconds: took.Seconds(), Figures: t.figures}
	switch {
	case len(t.wrong) > 0 && known != nil:
		one.Verdict, one.Reason = "PEER", "peer fails: "+known.reason+" ("+t.reason()+")"
	case len(t.wrong) > 0:
		one.Verdict, one.Reason = "FAIL", t.reason()
	case t.skipped != "":
		one.Verdict, one.Reason = "SKIP", t.skipped
	default:
		one.Verdict = "PASS"
	}
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	r.counts[one.Verdict]++
	r.records = append(r.records, one)
	line := one.Verdict + " " + t.name
	if one.Reason != "" {
		line += ": " + one.Reason
	}
	fmt.Printf("%s  [%.1f s]\n", line, one.Seconds)
	for _, each := range t.figures {
		fmt.Printf("FIGURE | %s | %s | %.4g %s |\n", each.Check, each.Name, each.Value, each.Unit)
	}
}

// close prints the sum, and says whether all is well.
func (r *report) close() error {
	var err error
	if r.out != "" {
		err = write(r.out, r.records)
	}
	ended := fmt.Sprintf("%d passed, %d failed, %d skipped", r.counts["PASS"], r.counts["FAIL"], r.counts["SKIP"])
	if r.peer != nil {
		ended += fmt.Sprintf(", %d failed by the peer as listed", r.counts["PEER"])
	}
	fmt.Println("streams:", ended)
	if r.counts["FAIL"] > 0 {
		err = errors.Join(err, fmt.Errorf("%d checks failed", r.counts["FAIL"]))
	}
	if len(r.records) == 0 {
		err = errors.Join(err, errors.New("no check was run"))
	}
	return err
}

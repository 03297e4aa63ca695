// Command crictl uses every command of crictl with a server, and compares the answers of two servers.
//
//	crictl drive -crictl PROGRAM -endpoint unix:///x.sock -work FOLDER -out answers.json
//	crictl judge -mine answers.json -peer answers.json -status STATUS.md [-loose]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"podwright.local/critest/status"
)

func main() {
	program := flag.String("crictl", "", "the real crictl")
	endpoint := flag.String("endpoint", "", "the server's address")
	work := flag.String("work", "", "an empty folder for requests, logs and volumes")
	out := flag.String("out", "", "where the answers are written, as JSON")
	mine := flag.String("mine", "", "podwright's answers")
	peer := flag.String("peer", "", "the peer's answers")
	page := flag.String("status", "", "the page that lists what is pending, and what is accepted")
	loose := flag.Bool("loose", false, "the lists were made for another peer: its failures, and rows without use, are none of ours")
	if len(os.Args) < 2 {
		fail(fmt.Errorf("want drive or judge"))
	}
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	var err error
	switch os.Args[1] {
	case "drive":
		err = drive(*program, *endpoint, *work, *out)
	case "judge":
		err = compare(*mine, *peer, *page, *loose)
	default:
		err = fmt.Errorf("want drive or judge, not %s", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "crictl: FAILED:", err)
	os.Exit(1)
}

func drive(program, endpoint, work, out string) error {
	driver, err := newDriver(program, endpoint, work)
	if err != nil {
		return err
	}
	help, err := exec.Command(program, "--help").Output()
	if err != nil {
		return fmt.Errorf("%s --help: %w", program, err)
	}
	if unused := unused(string(help), steps()); len(unused) > 0 {
		return fmt.Errorf("no step uses these commands of crictl: %s", strings.Join(unused, ", "))
	}
	data, err := json.MarshalIndent(driver.run(steps()), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(data, '\n'), 0o644)
}

func compare(mine, peer, page string, loose bool) error {
	ours, err := read(mine)
	if err != nil {
		return err
	}
	theirs, err := read(peer)
	if err != nil {
		return err
	}
	pending, err := status.ReadPending(page, status.Commands)
	if err != nil {
		return err
	}
	accepted, err := exceptions(page)
	if err != nil {
		return err
	}
	v := judge(ours, theirs, pending, accepted, loose)
	for _, each := range v.waits {
		fmt.Println("pending:", each)
	}
	for _, each := range v.complaints {
		fmt.Println("crictl: FAILED:", each)
	}
	fmt.Printf("crictl: %d passed, %d pending, %d failed; %d keys of the peer compared, %d missing ones accepted\n",
		v.passed, v.pending, len(v.complaints), v.compared, v.accepted)
	if len(v.complaints) > 0 {
		os.Exit(1)
	}
	return nil
}

func read(path string) ([]answer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the session left no answers: %w", err)
	}
	var answers []answer
	return answers, json.Unmarshal(data, &answers)
}

func exceptions(page string) ([]*exception, error) {
	rows, err := status.Rows(page, status.Fields)
	if err != nil {
		return nil, err
	}
	var all []*exception
	for _, row := range rows {
		if row[2] == "" {
			return nil, fmt.Errorf("%s: %s %s is accepted without a reason", page, row[0], row[1])
		}
		all = append(all, &exception{step: row[0], field: row[1], reason: row[2]})
	}
	return all, nil
}

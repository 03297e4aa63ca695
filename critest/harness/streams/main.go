// Command streams is a client of Exec, Attach and PortForward that judges the server by them. It makes pods of its own,
// speaks SPDY and WebSocket as the Kubernetes client library does and by hand, and prints one line for each check.
//
//	streams -endpoint unix:///x.sock -work FOLDER [-run REGEXP] [-transport spdy|websocket|both] [-pid PID] [-full]
//
// Inside its pods the same program serves: streams inside PROGRAM ARGUMENT...
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// setting is what the checks are told, and what they share.
type setting struct {
	*node
	// size is how many bytes the large transfers have.
	size int64
	// full: the checks that take long run too.
	full bool
	// pid is the server's process, zero where it is not known.
	pid int
	// stall is how long a reader stands still.
	stall time.Duration
	// slow is how many slow connections are opened at once.
	slow int
	// crictl is the program, empty where it is not known.
	crictl string
	// restart is a program that ends the server and starts it anew: SIGNAL PID, and prints the new PID.
	restart string
	// room is by how many bytes the server may grow under an attack.
	room int64
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "inside" {
		inside(os.Args[2], os.Args[3:])
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "streams: FAILED:", err)
		os.Exit(1)
	}
}

func run() error {
	s := &setting{}
	endpoint := flag.String("endpoint", "", "the server's address, as unix:///x.sock")
	work := flag.String("work", "", "a folder for logs and files of the pods")
	wanted := flag.String("run", "", "only the checks whose name matches this regular expression")
	over := flag.String("transport", "both", "spdy, websocket or both")
	megabytes := flag.Int64("size", 64, "the size of large transfers in MiB")
	room := flag.Int64("room", 8, "by how many MiB the server may grow under an attack")
	list := flag.Bool("list", false, "print the names of the checks")
	page := flag.String("peer", "", "the page that lists what the peer fails; a failure listed there is none")
	out := flag.String("out", "", "where the verdicts and figures are written, as JSON")
	flag.BoolVar(&s.full, "full", false, "run the checks that take long too")
	flag.IntVar(&s.pid, "pid", 0, "the server's process, for its memory and files")
	flag.IntVar(&s.slow, "slow", 500, "how many slow connections are opened at once")
	flag.DurationVar(&s.stall, "stall", 10*time.Second, "how long a reader stands still")
	flag.StringVar(&s.crictl, "crictl", "", "the crictl program")
	flag.StringVar(&s.restart, "restart", "", "a program that ends the server and starts it anew: SIGNAL PID, and prints the new PID")
	flag.Parse()
	s.size, s.room = *megabytes<<20, *room<<20
	pattern, err := regexp.Compile(*wanted)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"spdy", "websocket", "both"}, *over) {
		return fmt.Errorf("-transport is spdy, websocket or both, not %s", *over)
	}
	planned := plan(pattern, *over)
	if *list {
		for _, each := range planned {
			fmt.Println(each.name)
		}
		return nil
	}
	if *endpoint == "" || *work == "" {
		return errors.New("-endpoint and -work are wanted")
	}
	log, err := quiet(*work)
	if err != nil {
		return err
	}
	defer log.Close()
	if s.node, err = connect(*endpoint, *work); err != nil {
		return err
	}
	report := &report{out: *out}
	if *page != "" {
		if report.peer, err = peerFails(*page); err != nil {
			return err
		}
	}
	for _, each := range planned {
		began := time.Now()
		report.add(s.try(each), time.Since(began))
	}
	s.memories()
	return errors.Join(s.node.close(), report.close())
}

// memories prints what the server holds after all that.
func (s *setting) memories() {
	for _, name := range []string{"VmRSS", "VmHWM"} {
		if size, err := s.memory(name); err == nil {
			fmt.Printf("FIGURE | all | the server's %s at the end | %.1f MiB |\n", name, float64(size)/(1<<20))
		}
	}
}

// planned is a check as it runs once.
type planned struct {
	check
	over     transport
	protocol string
	name     string
}

// runs is every way in which a check runs.
func (c check) runs() []planned {
	switch {
	case c.both:
		return []planned{{c, spdyStreams, "", c.name + "/spdy"}, {c, webSocket, "", c.name + "/websocket"}}
	case len(c.each) > 0:
		var all []planned
		for _, protocol := range c.each {
			all = append(all, planned{c, webSocket, protocol, c.name + "/" + cmp.Or(strings.TrimSuffix(protocol, ".channel.k8s.io"), "none")})
		}
		return all
	}
	return []planned{{c, "", "", c.name}}
}

func plan(pattern *regexp.Regexp, over string) []planned {
	var all []planned
	for _, each := range slices.Concat(execChecks, endChecks, ttyChecks, copyChecks, attachChecks, paceChecks,
		forwardChecks, bulkChecks, channelChecks, handshakeChecks, tokenChecks, floodChecks, loadChecks, guardChecks, crictlChecks,
		restartChecks) {
		all = append(all, each.runs()...)
	}
	return slices.DeleteFunc(all, func(each planned) bool {
		return !pattern.MatchString(each.name) || over != "both" && each.over != "" && over != string(each.over)
	})
}

// quiet sends what the client library logs to a file.
func quiet(work string) (*os.File, error) {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(work, "client.log"))
	if err != nil {
		return nil, err
	}
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			return nil, err
		}
	}
	klog.SetOutput(log)
	return log, nil
}

// record is a verdict as it is written.
type record struct {
	Check   string   `json:"check"`
	Verdict string   `json:"verdict"`
	Reason  string   `json:"reason,omitempty"`
	Seconds float64  `json:"seconds"`
	Figures []figure `json:"figures,omitempty"`
}

func write(path string, records []record) error {
	data, err := json.MarshalIndent(records, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

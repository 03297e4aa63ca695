// Command applets is what the stand-in images need beyond busybox. It acts by the name it is called by:
// pause stays alive, nonewprivs tells its effective user, pgrep and ipcs do as much as the suite asks of them.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "pause":
		pause()
	case "nonewprivs":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case "pgrep":
		os.Exit(pgrep(os.Args[len(os.Args)-1]))
	case "ipcs":
		os.Exit(ipcs())
	default:
		fmt.Fprintf(os.Stderr, "applets: no applet is called %q\n", name)
		os.Exit(127)
	}
}

// pause waits for an end, and reaps what it inherits.
func pause() {
	asked := make(chan os.Signal, 16)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range asked {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}

// pgrep prints the processes whose name contains name, without itself.
func pgrep(name string) int {
	found := 1
	entries, err := os.ReadDir("/proc")
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgrep:", err)
		return 3
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "comm"))
		if err == nil && strings.Contains(string(comm), name) {
			fmt.Println(pid)
			found = 0
		}
	}
	return found
}

// ipcs prints the shared memory segments of this IPC namespace.
func ipcs() int {
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		fmt.Fprintln(os.Stderr, "ipcs:", err)
		return 1
	}
	os.Stdout.Write(table)
	return 0
}

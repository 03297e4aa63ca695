package main

import (
	"os/exec"
	"strings"
)

// step is one call of crictl, and what a server that can do it answers.
type step struct {
	// name begins with crictl's command; what follows tells two steps of one command apart.
	name string
	// args are what stands behind the global options. {WORK} and the names that earlier steps saved are filled in.
	args []string
	// stdin is what the command reads.
	stdin string
	// want is a regular expression that the output matches.
	want string
	// fails: the command must not succeed, and want is to be found in what it complains of.
	fails bool
	// save is the name under which the last line of the output is kept.
	save string
	// fields: the output is compared with the peer's, key by key.
	fields bool
	// stderr: what is wanted comes there.
	stderr bool
	// again: the command is repeated for some seconds until it does as wanted.
	again bool
	// until: the command would not end by itself; it is ended as soon as its output is as wanted.
	until bool
	// aside: it is started here and ended behind the last step; its output counts then.
	aside bool
	// peer says why the peer cannot do this; it must not do it then.
	peer string
	// page is an address that must answer while the command runs; the command is ended then.
	page string
}

const (
	busybox = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
	nginx   = "registry.k8s.io/e2e-test-images/nginx:1.14-2"
	pod     = "{WORK}/pod.json"

	noV5   = "containerd 2.3 speaks websocket protocols up to v4.channel.k8s.io, and crictl offers v5 alone"
	noCriu = "criu does not work here"
)

// checkpoint is refused where CRIU does not work, in the words by which kubelet knows a runtime that cannot.
func checkpoint() step {
	one := step{name: "checkpoint", args: []string{"checkpoint", "--export", "{WORK}/checkpoint.tar", "{WEB}"}}
	if exec.Command("criu", "check").Run() == nil {
		one.want = `{WEB}`
		return one
	}
	one.fails = true
	one.want = unimplemented + ` desc = method CheckpointContainer not implemented`
	one.peer = noCriu
	return one
}

// steps is one session that uses every command of crictl which speaks with the server.
func steps() []step {
	var all []step
	for _, part := range [][]step{node(), images(), start(), look(), use(), measure(), stop()} {
		all = append(all, part...)
	}
	return all
}

func node() []step {
	return []step{
		{name: "version", args: []string{"version"}, want: `RuntimeApiVersion: +v1`, fields: true},
		{name: "info", args: []string{"info", "-o", "json"}, want: `NetworkReady`, fields: true, again: true},
		{name: "info quiet", args: []string{"info", "-q"}, want: `RuntimeReady`, fields: true},
		{name: "runtime-config", args: []string{"runtime-config"}, want: `cgroup driver: +(CGROUPFS|SYSTEMD)`, fields: true},
		{name: "update-runtime-config", args: []string{"update-runtime-config", "--pod-cidr", "10.89.0.0/16"}},
		{name: "events", args: []string{"events", "-o", "json"}, want: `CONTAINER_DELETED_EVENT`, fields: true, aside: true},
	}
}

func images() []step {
	return []step{
		{name: "pull", args: []string{"pull", busybox}, want: `sha256:`},
		{name: "pull of a second image", args: []string{"pull", nginx}, want: `sha256:`},
		{name: "pull of none", args: []string{"pull", "registry.k8s.io/e2e-test-images/none:1"}, fails: true, want: `code = NotFound`},
		{name: "images", args: []string{"images", "-o", "json"}, want: `e2e-test-images/nginx`, fields: true},
		{name: "images of a reference", args: []string{"images", "-q", busybox}, want: `^sha256:[0-9a-f]{64}$`},
		{name: "inspecti", args: []string{"inspecti", "-o", "json", nginx}, want: `1.14-2`, fields: true},
		{name: "inspecti of none", args: []string{"inspecti", "none.local/none:1"}, fails: true, want: `no such image`},
		{name: "imagefsinfo", args: []string{"imagefsinfo", "-o", "json"}, want: `usedBytes`, fields: true},
	}
}

func start() []step {
	return []step{
		{name: "runp", args: []string{"runp", pod}, want: `^[0-9a-f]{64}$`, save: "POD"},
		{name: "runp of no handler", args: []string{"runp", "-r", "nobody", "{WORK}/second.json"}, fails: true, want: `nobody`},
		{name: "inspectp", args: []string{"inspectp", "-o", "json", "{POD}"}, want: `SANDBOX_READY`, fields: true},
		{name: "pods", args: []string{"pods", "-o", "json"}, want: `SANDBOX_READY`, fields: true},
		{name: "pods by label", args: []string{"pods", "-q", "--no-trunc", "--label", "app=web", "--state", "ready"}, want: `^{POD}$`},
		{name: "pods by name", args: []string{"pods", "-q", "--no-trunc", "--name", "^absent$"}, want: `^$`},
		{name: "create", args: []string{"create", "--no-pull", "{POD}", "{WORK}/shell.json", pod}, want: `^[0-9a-f]{64}$`, save: "SHELL"},
		{name: "create of a second one", args: []string{"create", "--with-pull", "{POD}", "{WORK}/web.json", pod}, want: `^[0-9a-f]{64}$`, save: "WEB"},
		{name: "inspect of a created one", args: []string{"inspect", "-o", "json", "{SHELL}"}, want: `CONTAINER_CREATED`, fields: true},
		{name: "start", args: []string{"start", "{SHELL}", "{WEB}"}, want: `{SHELL}`},
		{name: "start of a running one", args: []string{"start", "{SHELL}"}, fails: true, want: `rpc error`},
	}
}

func look() []step {
	return []step{
		{name: "ps", args: []string{"ps", "-o", "json"}, want: `CONTAINER_RUNNING`, fields: true},
		{name: "ps by name", args: []string{"ps", "-q", "--no-trunc", "--name", "shell", "--state", "running", "--pod", "{POD}"}, want: `^{SHELL}$`},
		{name: "ps by image", args: []string{"ps", "-q", "--no-trunc", "--image", nginx}, want: `^{WEB}$`},
		{name: "ps by label", args: []string{"ps", "-q", "--no-trunc", "--label", "role=none"}, want: `^$`},
		{name: "inspect", args: []string{"inspect", "-o", "json", "{SHELL}"}, want: `CONTAINER_RUNNING`, fields: true},
		{name: "inspect of part of an id", args: []string{"inspect", "-q", "{SHELL:13}"}, want: `{SHELL}`},
		{name: "inspect of none", args: []string{"inspect", "0123456789ab"}, fails: true, want: `code = NotFound`},
		{name: "logs", args: []string{"logs", "{SHELL}"}, want: `to-stdout`, again: true},
		{name: "logs of stderr", args: []string{"logs", "--stream", "stderr", "--timestamps", "{SHELL}"}, want: `^20\S+ to-stderr$`, stderr: true, again: true},
		{name: "logs that follow", args: []string{"logs", "-f", "{SHELL}"}, want: `to-stdout`, until: true},
		{name: "logs reopened", args: []string{"logs", "--reopen", "{SHELL}"}},
	}
}

func use() []step {
	return []step{
		{name: "exec sync", args: []string{"exec", "--sync", "{SHELL}", "sh", "-c", "echo $GREETING; pwd"}, want: `hello\n/tmp`},
		{name: "exec sync that fails", args: []string{"exec", "--sync", "{SHELL}", "sh", "-c", "exit 7"}, fails: true, want: `exit(ed with| code).* 7`},
		{name: "exec sync that lasts", args: []string{"exec", "--sync", "--timeout", "1", "{SHELL}", "sleep", "30"}, fails: true, want: `code = DeadlineExceeded`},
		{name: "exec sync of none", args: []string{"exec", "--sync", "{SHELL}", "no-such-program"}, fails: true, want: `no-such-program`},
		{name: "exec", args: []string{"exec", "{SHELL}", "echo", "streamed"}, want: `^streamed$`},
		{name: "exec by websocket", args: []string{"exec", "--transport", "websocket", "{SHELL}", "echo", "streamed"}, want: `^streamed$`, peer: noV5},
		{name: "exec with stdin", args: []string{"exec", "-i", "{SHELL}", "cat"}, stdin: "typed\n", want: `^typed$`},
		{name: "exec that fails", args: []string{"exec", "{SHELL}", "sh", "-c", "exit 7"}, fails: true, want: `exit (code|status) 7|with 7`},
		{name: "attach", args: []string{"attach", "-i", "{SHELL}"}, stdin: "you\n", want: `heard you`, until: true},
		{name: "attach by websocket", args: []string{"attach", "-i", "--transport", "websocket", "{SHELL}"}, stdin: "again\n", want: `heard again`, until: true, peer: noV5},
		{name: "port-forward", args: []string{"port-forward", "{POD}", "12090:80"}, page: "http://127.0.0.1:12090/", want: `Forwarding from`},
		{name: "port-forward by websocket", args: []string{"port-forward", "--transport", "websocket", "{POD}", "12091:80"}, page: "http://127.0.0.1:12091/", want: `Forwarding from`, peer: noV5},
		{name: "update", args: []string{"update", "--cpu-share", "256", "--memory", "67108864", "{SHELL}"}, want: `{SHELL}`},
		{name: "inspect of an updated one", args: []string{"inspect", "-o", "json", "{SHELL}"}, want: `"memoryLimitInBytes": "67108864"`, fields: true},
		checkpoint(),
	}
}

func measure() []step {
	return []step{
		{name: "stats", args: []string{"stats", "-o", "json"}, want: `(?s)usageNanoCores.*writableLayer`, fields: true, again: true},
		{name: "stats by id", args: []string{"stats", "-o", "json", "--id", "{SHELL}"}, want: `(?s){SHELL}.*usageNanoCores.*writableLayer`, fields: true, again: true},
		{name: "statsp", args: []string{"statsp", "-o", "json"}, want: `(?s){POD}.*usageNanoCores.*writableLayer`, fields: true, again: true},
		{name: "metricdescs", args: []string{"metricdescs", "-o", "json"}, want: `container_memory_working_set_bytes`, fields: true},
		{name: "metricsp", args: []string{"metricsp", "-o", "json"}, want: `{POD}`, fields: true},
	}
}

func stop() []step {
	return []step{
		{name: "run", args: []string{"run", "--no-pull", "{WORK}/web.json", "{WORK}/second.json"}, want: `^[0-9a-f]{64}$`, save: "RUN"},
		{name: "stop", args: []string{"stop", "--timeout", "1", "{SHELL}"}, want: `{SHELL}`},
		{name: "stop of a stopped one", args: []string{"stop", "{SHELL}"}, want: `{SHELL}`},
		{name: "exec sync in a stopped one", args: []string{"exec", "--sync", "{SHELL}", "true"}, fails: true, want: `rpc error`},
		{name: "inspect of a stopped one", args: []string{"inspect", "-o", "json", "{SHELL}"}, want: `CONTAINER_EXITED`, fields: true},
		{name: "ps of all", args: []string{"ps", "-a", "-o", "json"}, want: `CONTAINER_EXITED`, fields: true},
		{name: "rm", args: []string{"rm", "{SHELL}"}, want: `{SHELL}`},
		{name: "rm of a running one", args: []string{"rm", "{WEB}"}, fails: true, want: `running`},
		{name: "rm by force", args: []string{"rm", "--force", "{WEB}"}, want: `{WEB}`},
		{name: "stopp", args: []string{"stopp", "{POD}"}, want: `{POD}`},
		{name: "inspectp of a stopped one", args: []string{"inspectp", "-o", "json", "{POD}"}, want: `SANDBOX_NOTREADY`, fields: true},
		{name: "rmp", args: []string{"rmp", "{POD}"}, want: `{POD}`},
		{name: "rmp of all", args: []string{"rmp", "--all", "--force"}, want: `[0-9a-f]{64}`},
		{name: "pods afterwards", args: []string{"pods", "-q"}, want: `^$`},
		{name: "ps afterwards", args: []string{"ps", "-a", "-q"}, want: `^$`},
		{name: "rmi", args: []string{"rmi", nginx}, want: `nginx`},
		{name: "rmi of none", args: []string{"rmi", nginx}, fails: true, want: `no such image`},
		{name: "rmi of unused ones", args: []string{"rmi", "--prune"}, want: `busybox`},
		{name: "inspecti afterwards", args: []string{"inspecti", busybox}, fails: true, want: `no such image`},
	}
}

// unused returns the commands of crictl, read from its help, that no step uses and that speak with the server.
func unused(help string, all []step) []string {
	used := map[string]bool{"completion": true, "config": true, "help": true}
	for _, each := range all {
		used[each.args[0]] = true
	}
	_, rest, _ := strings.Cut(help, "\nCOMMANDS:\n")
	commands, _, _ := strings.Cut(rest, "\n\n")
	var left []string
	for line := range strings.Lines(commands) {
		if name := strings.Trim(strings.Fields(line + " -")[0], ","); !used[name] {
			left = append(left, name)
		}
	}
	return left
}

// peerCannot returns what the peer cannot do here, and why.
func peerCannot() map[string]string {
	cannot := map[string]string{}
	for _, each := range steps() {
		cannot[each.name] = each.peer
	}
	return cannot
}

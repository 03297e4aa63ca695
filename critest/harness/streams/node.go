package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	pb "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	image = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
	// within is where this program lies in a container.
	within = "/streams"
)

// node is a server with the pods that this run made on it.
type node struct {
	runtime    pb.RuntimeServiceClient
	images     pb.ImageServiceClient
	connection *grpc.ClientConn
	endpoint   string
	work       string
	self       string

	lock  sync.Mutex
	count int
	pods  []*pod
	main  *container
	host  *container
}

type pod struct {
	*node
	id     string
	config *pb.PodSandboxConfig
}

type container struct {
	*pod
	id   string
	name string
}

func connect(endpoint, work string) (*node, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if work, err = filepath.Abs(work); err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5,
			MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, err
	}
	n := &node{runtime: pb.NewRuntimeServiceClient(connection), images: pb.NewImageServiceClient(connection),
		connection: connection, endpoint: endpoint, work: work, self: self}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = n.images.PullImage(ctx, &pb.PullImageRequest{Image: &pb.ImageSpec{Image: image}})
	return n, err
}

// close removes every pod of this run.
func (n *node) close() error {
	var all error
	for _, each := range n.pods {
		all = errors.Join(all, each.remove())
	}
	return errors.Join(all, n.connection.Close())
}

// podOf makes a pod; network is the namespace it has.
func (n *node) podOf(ctx context.Context, network pb.NamespaceMode) (*pod, error) {
	n.lock.Lock()
	n.count++
	name := fmt.Sprintf("streams-%d-%d", os.Getpid(), n.count)
	n.lock.Unlock()
	config := &pb.PodSandboxConfig{
		Metadata:     &pb.PodSandboxMetadata{Name: name, Uid: name, Namespace: "streams"},
		Hostname:     "streams",
		LogDirectory: filepath.Join(n.work, "logs", name),
		DnsConfig:    &pb.DNSConfig{},
		Linux: &pb.LinuxPodSandboxConfig{SecurityContext: &pb.LinuxSandboxSecurityContext{
			NamespaceOptions: &pb.NamespaceOption{Network: network, Pid: pb.NamespaceMode_CONTAINER}}},
	}
	if network == pb.NamespaceMode_NODE {
		config.Hostname = ""
	}
	reply, err := n.runtime.RunPodSandbox(ctx, &pb.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("RunPodSandbox: %w", err)
	}
	made := &pod{node: n, id: reply.PodSandboxId, config: config}
	n.lock.Lock()
	n.pods = append(n.pods, made)
	n.lock.Unlock()
	return made, nil
}

// remove stops and removes a pod.
func (p *pod) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p.lock.Lock()
	p.pods = slices.DeleteFunc(slices.Clone(p.pods), func(each *pod) bool { return each == p })
	p.lock.Unlock()
	_, err := p.runtime.StopPodSandbox(ctx, &pb.StopPodSandboxRequest{PodSandboxId: p.id})
	if err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err = p.runtime.RemovePodSandbox(ctx, &pb.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	return nil
}

// wish is what a container shall be.
type wish struct {
	command          []string
	stdin, once, tty bool
}

// start makes and starts a container in the pod.
func (p *pod) start(ctx context.Context, w wish) (*container, error) {
	p.lock.Lock()
	p.count++
	name := fmt.Sprintf("c%d", p.count)
	p.lock.Unlock()
	config := &pb.ContainerConfig{
		Metadata: &pb.ContainerMetadata{Name: name},
		Image:    &pb.ImageSpec{Image: image},
		Command:  w.command,
		Stdin:    w.stdin, StdinOnce: w.once, Tty: w.tty,
		LogPath: name + ".log",
		Mounts:  []*pb.Mount{{ContainerPath: within, HostPath: p.self, Readonly: true}},
		Linux: &pb.LinuxContainerConfig{SecurityContext: &pb.LinuxContainerSecurityContext{
			NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions}},
	}
	made, err := p.runtime.CreateContainer(ctx, &pb.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		return nil, fmt.Errorf("CreateContainer: %w", err)
	}
	if _, err := p.runtime.StartContainer(ctx, &pb.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return nil, fmt.Errorf("StartContainer: %w", err)
	}
	return &container{pod: p, id: made.ContainerId, name: name}, nil
}

func (c *container) stop(ctx context.Context) error {
	_, err := c.runtime.StopContainer(ctx, &pb.StopContainerRequest{ContainerId: c.id})
	return err
}

func (c *container) remove(ctx context.Context) error {
	_, err := c.runtime.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: c.id})
	return err
}

// sync runs a command without any stream, and returns its stdout.
func (c *container) sync(ctx context.Context, command ...string) (string, error) {
	reply, err := c.runtime.ExecSync(ctx, &pb.ExecSyncRequest{ContainerId: c.id, Cmd: command, Timeout: 60})
	if err != nil {
		return "", fmt.Errorf("ExecSync: %w", err)
	}
	if reply.ExitCode != 0 {
		return "", fmt.Errorf("%v ended with %d: %s", command, reply.ExitCode, reply.Stderr)
	}
	return string(reply.Stdout), nil
}

// log is what the container's log holds of one stream, the rotated part first.
func (c *container) log(stream string) (string, error) {
	var text strings.Builder
	for _, suffix := range []string{".log.1", ".log"} {
		data, err := os.ReadFile(filepath.Join(c.config.LogDirectory, c.name+suffix))
		if err != nil && suffix == ".log" {
			return "", err
		}
		for line := range strings.Lines(string(data)) {
			parts := strings.SplitN(line, " ", 4)
			if len(parts) != 4 || parts[1] != stream {
				continue
			}
			if parts[2] == "P" {
				parts[3] = strings.TrimSuffix(parts[3], "\n")
			}
			text.WriteString(parts[3])
		}
	}
	return text.String(), nil
}

// shared is the container in which most checks run: the services of inside.go, and a shell.
func (t *trial) shared() *container {
	return t.serving(&t.node.main, pb.NamespaceMode_POD, "pod")
}

// onHost is the same in the host's network.
func (t *trial) onHost() *container {
	return t.serving(&t.node.host, pb.NamespaceMode_NODE, "host")
}

func (t *trial) serving(kept **container, network pb.NamespaceMode, where string) *container {
	if *kept == nil {
		made, err := t.podOf(t.ctx, network)
		t.need(err, "the shared pod")
		*kept, err = made.start(t.ctx, wish{command: []string{within, "inside", "serve", where}})
		t.need(err, "the shared container")
		t.need(t.until(10*time.Second, func() error {
			_, err := (*kept).sync(t.ctx, "cat", "/tmp/ready")
			return err
		}), "the shared container")
	}
	return *kept
}

// own is a container for one check alone, in a pod that goes with it.
func (t *trial) own(w wish) *container {
	made, err := t.podOf(t.ctx, pb.NamespaceMode_POD)
	t.need(err, "a pod")
	t.later(func() {
		if err := made.remove(); err != nil {
			t.complain("%v", err)
		}
	})
	started, err := made.start(t.ctx, w)
	t.need(err, "a container")
	return started
}

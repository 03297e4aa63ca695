package main

const (
	endToEnd = "e2e-test-images/"
	staging  = "k8s-staging-cri-tools/"
)

// image is one image of the suite: where it is found, what it is made from, and its configuration.
type image struct {
	repository string
	tags       []string
	base       string
	config     config
	// pinned: the suite names it by digest; it stands behind a multi-arch index.
	pinned bool
}

func catalogue() []image {
	shell := []string{"sh"}
	server := []string{"nginx", "-g", "daemon off;"}
	all := []image{
		{repository: endToEnd + "busybox", tags: []string{"1.29-2"}, base: "busybox", config: config{Cmd: shell}},
		{repository: endToEnd + "nginx", tags: []string{"1.14-2"}, base: "nginx",
			config: config{Cmd: server, StopSignal: "SIGTERM", ExposedPorts: ports("80/tcp")}},
		{repository: endToEnd + "httpd", tags: []string{"2.4.39-4"}, base: "nginx", config: config{
			Cmd:          []string{"sh", "-c", "echo 'httpd: serving port 80' >&2; exec httpd -f -p 80 -h /var/www"},
			ExposedPorts: ports("80/tcp")}},
		{repository: endToEnd + "nonewprivs", tags: []string{"1.3"}, base: "nonewprivs",
			config: config{Entrypoint: []string{"/bin/nonewprivs"}}},
		{repository: "pause", tags: []string{"3.9"}, base: "pause",
			config: config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		// The sandbox image of the peer is another one, since the suite removes 3.9.
		{repository: "pause", tags: []string{"sandbox"}, base: "pause", config: config{Entrypoint: []string{"/pause"},
			User: "65535:65535", Labels: map[string]string{"podwright.local/stand-in": "sandbox"}}},
		{repository: staging + "hostnet-nginx-amd64", tags: []string{"latest"}, base: "nginx", config: hostNetwork()},
		{repository: staging + "hostnet-nginx-arm64", tags: []string{"latest"}, base: "nginx", config: hostNetwork()},
		{repository: staging + "test-image-tags", tags: []string{"1", "2", "3"}, base: "busybox", config: plain("tags")},
		{repository: staging + "test-image-digest", tags: []string{"test"}, base: "busybox",
			config: plain("digest"), pinned: true},
		{repository: staging + "test-image-predefined-group", tags: []string{"latest"}, base: "busybox",
			config: config{Cmd: shell, User: "1000"}},
	}
	for _, name := range []string{"1", "2", "3", "latest"} {
		all = append(all, image{repository: staging + "test-image-" + name, tags: []string{"latest"},
			base: "busybox", config: plain(name)})
	}
	for _, tag := range []string{"test", "all"} {
		all = append(all, image{repository: staging + "test-image-tag", tags: []string{tag},
			base: "busybox", config: plain("tag-" + tag)})
	}
	for name, user := range map[string]string{
		"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004",
	} {
		all = append(all, image{repository: staging + "test-image-user-" + name, tags: []string{"latest"},
			base: "busybox", config: config{Cmd: shell, User: user}})
	}
	return all
}

// plain is an image that differs from its neighbours by a label alone.
func plain(name string) config {
	return config{Cmd: []string{"sh"}, Labels: map[string]string{"podwright.local/stand-in": name}}
}

// hostNetwork is a server on the host's port 12003.
func hostNetwork() config {
	return config{Cmd: []string{"sh", "-c", "sed 's/listen 80/listen 12003/' /etc/nginx/nginx.conf >/tmp/nginx.conf" +
		" && exec nginx -c /tmp/nginx.conf -g 'daemon off;'"}, ExposedPorts: ports("12003/tcp")}
}

func ports(all ...string) map[string]struct{} {
	exposed := map[string]struct{}{}
	for _, port := range all {
		exposed[port] = struct{}{}
	}
	return exposed
}

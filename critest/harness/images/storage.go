package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
)

type descriptor struct {
	MediaType string    `json:"mediaType"`
	Digest    string    `json:"digest"`
	Size      int       `json:"size"`
	Platform  *platform `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type imageConfig struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Created      string `json:"created"`
	Config       config `json:"config"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// config is the part of an image's configuration that the suite relies on.
type config struct {
	User         string
	Env          []string
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
}

// storage is the folder that docker-registry serves from.
type storage struct{ root string }

// add stores an image under all its tags and returns the digest that its tags name.
func (s storage) add(content *layers, of image) (string, error) {
	repository := filepath.Join(s.root, "docker/registry/v2/repositories", of.repository)
	var failed error
	blob := func(mediaType string, data []byte, folders ...string) descriptor {
		digest := digestOf(data)
		if err := s.put(digest, data); err != nil {
			failed = err
		}
		for _, folder := range folders {
			if err := link(filepath.Join(repository, folder, "sha256", hex(digest)), digest); err != nil {
				failed = err
			}
		}
		return descriptor{MediaType: mediaType, Digest: digest, Size: len(data)}
	}

	settings := imageConfig{Architecture: runtime.GOARCH, OS: "linux", Created: "1970-01-01T00:00:00Z", Config: of.config}
	settings.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	settings.RootFS.Type = "layers"
	made := manifest{SchemaVersion: 2, MediaType: typeManifest}
	for _, each := range content.stack {
		settings.RootFS.DiffIDs = append(settings.RootFS.DiffIDs, each.diffID)
		made.Layers = append(made.Layers, blob(typeLayer, each.blob, "_layers"))
	}
	made.Config = blob(typeConfig, encode(settings), "_layers")
	top := blob(typeManifest, encode(made), "_manifests/revisions")
	if of.pinned {
		top.Platform = &platform{runtime.GOARCH, "linux"}
		top = blob(typeIndex, encode(index{2, typeIndex, []descriptor{top}}), "_manifests/revisions")
	}
	for _, tag := range of.tags {
		folder := filepath.Join(repository, "_manifests/tags", tag)
		for _, place := range []string{"current", "index/sha256/" + hex(top.Digest)} {
			if err := link(filepath.Join(folder, place), top.Digest); err != nil {
				return "", err
			}
		}
	}
	return top.Digest, failed
}

func (s storage) put(digest string, data []byte) error {
	folder := filepath.Join(s.root, "docker/registry/v2/blobs/sha256", hex(digest)[:2], hex(digest))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "data"), data, 0o644)
}

func link(folder, digest string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "link"), []byte(digest), 0o644)
}

func hex(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

func encode(value any) []byte {
	data, err := json.Marshal(value)
	must(err)
	return data
}

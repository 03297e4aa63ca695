package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
)

// layer is one layer as it travels, and the digest of what it unpacks to.
type layer struct {
	blob   []byte
	diffID string
}

// layers is the file system of an image, lowest layer first.
type layers struct{ stack []layer }

// file is an entry of a layer: a regular file, or a symbolic link where link is set.
type file struct {
	path    string
	mode    int64
	content []byte
	link    string
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// with returns the same file system with files on top.
func (base *layers) with(files ...file) *layers {
	var plain, packed bytes.Buffer
	writer := tar.NewWriter(&plain)
	for _, entry := range files {
		header := &tar.Header{Name: entry.path, Mode: entry.mode, Size: int64(len(entry.content)), Typeflag: tar.TypeReg}
		if entry.link != "" {
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, entry.link, 0o777
		}
		must(writer.WriteHeader(header))
		must2(writer.Write(entry.content))
	}
	must(writer.Close())
	zip := gzip.NewWriter(&packed)
	must2(zip.Write(plain.Bytes()))
	must(zip.Close())
	stack := append(append([]layer{}, base.stack...), layer{packed.Bytes(), digestOf(plain.Bytes())})
	return &layers{stack}
}

// Writing to memory fails only on a malformed header, which is a mistake in this program.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must2[T any](_ T, err error) { must(err) }

// readArchive takes the layers out of an OCI archive with one image.
func readArchive(name string) (*layers, error) {
	archive, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	entries := map[string][]byte{}
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if entries[path.Clean(header.Name)], err = io.ReadAll(reader); err != nil {
			return nil, err
		}
	}
	blob := func(digest string) []byte { return entries["blobs/sha256/"+digest[len("sha256:"):]] }
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(entries["index.json"], &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%d manifests instead of one", len(index.Manifests))
	}
	var found manifest
	if err := json.Unmarshal(blob(index.Manifests[0].Digest), &found); err != nil {
		return nil, err
	}
	var settings imageConfig
	if err := json.Unmarshal(blob(found.Config.Digest), &settings); err != nil {
		return nil, err
	}
	base := &layers{}
	for i, each := range found.Layers {
		base.stack = append(base.stack, layer{blob(each.Digest), settings.RootFS.DiffIDs[i]})
	}
	return base, nil
}

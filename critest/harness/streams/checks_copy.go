package main

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"time"
)

var copyChecks = []check{
	{name: "copy.in-and-out", both: true, limit: 10 * time.Minute, run: copyInAndOut},
	{name: "copy.many-files", both: true, run: copyManyFiles},
}

// packed writes a tar stream of files whose content the seeds decide.
func packed(to io.Writer, names []string, size int64) error {
	archive := tar.NewWriter(to)
	for i, name := range names {
		header := &tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.CopyN(archive, noise(byte(i)), size); err != nil {
			return err
		}
	}
	return archive.Close()
}

// stdinOf is a stdin that a function writes.
func stdinOf(write func(io.Writer) error) io.Reader {
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(write(writer)) }()
	return reader
}

// unpacked reads a tar stream and returns the digest of each file.
func unpacked(from io.Reader) (map[string]string, error) {
	found := map[string]string{}
	for archive := tar.NewReader(from); ; {
		header, err := archive.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, from)
			return found, err
		}
		if err != nil {
			return found, err
		}
		digest := sha256.New()
		if _, err := io.Copy(digest, archive); err != nil {
			return found, err
		}
		found[header.Name] = fmt.Sprintf("%x", digest.Sum(nil))
	}
}

func digestOf(seed byte, size int64) string {
	digest := sha256.New()
	if _, err := io.CopyN(digest, noise(seed), size); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", digest.Sum(nil))
}

// out runs a tar in the container and reads what it packs.
func (t *trial) out(c *container, command ...string) map[string]string {
	reader, writer := io.Pipe()
	var complaints strings.Builder
	ended := make(chan error, 1)
	go func() {
		err := c.exec(t.ctx, t.over, asked{command: command, stdout: writer, stderr: &complaints})
		writer.CloseWithError(err)
		ended <- err
	}()
	found, err := unpacked(reader)
	if err != nil {
		t.complain("reading the archive: %v", err)
		reader.CloseWithError(err)
	}
	if err := <-ended; err != nil {
		t.complain("%v: %v: %s", command, err, complaints.String())
	}
	return found
}

func copyInAndOut(t *trial) {
	c := t.shared()
	t.later(func() { c.sync(t.ctx, "rm", "-rf", "/copied") })
	want := digestOf(0, t.size)
	began := time.Now()
	got := c.feed(t, t.over, stdinOf(func(w io.Writer) error { return packed(w, []string{"large"}, t.size) }),
		"sh", "-c", "mkdir -p /copied && tar -x -f - -C /copied")
	if got.code != 0 {
		t.fail("into the container: %s", got)
	}
	rate := func() float64 { return float64(t.size) / 1e6 / time.Since(began).Seconds() }
	t.measure(fmt.Sprintf("%d MiB in", t.size>>20), rate(), "MB/s")
	if inside, err := c.sync(t.ctx, "sha256sum", "/copied/large"); err != nil || !strings.HasPrefix(inside, want) {
		t.complain("the digest inside is %s, not %s (%v)", inside, want, err)
	}
	began = time.Now()
	found := t.out(c, "tar", "-c", "-f", "-", "-C", "/copied", "large")
	t.measure(fmt.Sprintf("%d MiB out", t.size>>20), rate(), "MB/s")
	if found["large"] != want {
		t.complain("the digest outside is %s, not %s", found["large"], want)
	}
}

func copyManyFiles(t *trial) {
	const many, size = 200, 3000
	c := t.shared()
	t.later(func() { c.sync(t.ctx, "rm", "-rf", "/many") })
	var names []string
	for i := range many {
		names = append(names, fmt.Sprintf("file-%d", i))
	}
	got := c.feed(t, t.over, stdinOf(func(w io.Writer) error { return packed(w, names, size) }),
		"sh", "-c", "mkdir -p /many && tar -x -f - -C /many && cd /many && sha256sum file-7")
	t.same("into the container", got, 0, digestOf(7, size)+"  file-7\n", "")
	found := t.out(c, "sh", "-c", "cd /many && tar -c -f - *")
	for i, name := range names {
		if found[name] != digestOf(byte(i), size) {
			t.complain("%s came out as %q", name, found[name])
		}
	}
}

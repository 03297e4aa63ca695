// Command images makes every image that the suite names, and lays them out as docker-registry stores them.
//
//	images ARCHIVES APPLETS SHELL OUT
//
// ARCHIVES holds busybox.tar and nginx.tar (deploy/images/build), APPLETS is the applets program, SHELL a folder laid
// over busybox (its shell, and what that is linked with), OUT becomes the registry's storage. It prints the digest under which the pinned image is found. Equal input gives equal bytes.
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: images ARCHIVES APPLETS SHELL OUT")
		os.Exit(2)
	}
	if err := build(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "images: FAILED:", err)
		os.Exit(1)
	}
}

func build(archives, applets, shell, out string) error {
	bases := map[string]*layers{}
	for _, name := range []string{"busybox", "nginx"} {
		base, err := readArchive(archives + "/" + name + ".tar")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		bases[name] = base
	}
	program, err := os.ReadFile(applets)
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	shellFiles, err := filesOf(shell)
	if err != nil {
		return err
	}
	bases["busybox"] = bases["busybox"].with(shellFiles...).with(
		// A link would have all of busybox masked with it, by the spec that masks ls.
		file{path: "bin/ls", mode: 0o755, content: busybox},
		file{path: "bin/pgrep", mode: 0o755, content: program},
		file{path: "bin/ipcs", link: "pgrep"},
		file{path: "bin/pause", link: "pgrep"},
	)
	bases["nonewprivs"] = bases["busybox"].with(file{path: "bin/nonewprivs", mode: 0o4755, content: program})
	bases["pause"] = (&layers{}).with(file{path: "pause", mode: 0o755, content: program})

	registry := storage{root: out}
	for _, image := range catalogue() {
		digest, err := registry.add(bases[image.base], image)
		if err != nil {
			return fmt.Errorf("%s: %w", image.repository, err)
		}
		if image.pinned {
			fmt.Println(digest)
		}
	}
	return nil
}

// filesOf returns the files of a folder, in order of their names.
func filesOf(folder string) ([]file, error) {
	var found []file
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(folder, name)
		found = append(found, file{path: inside, mode: 0o755, content: content})
		return err
	})
	return found, err
}

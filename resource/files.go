package resource

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/proa-io/proa/component"
)

// fileInfo is what is known of a file that was read.
type fileInfo struct {
	bytes     int
	documents int // resources in it, for whomever
}

// file returns what is known of a file; nothing for a nil Set.
func (s *Set) file(path string) fileInfo {
	if s == nil {
		return fileInfo{}
	}
	return s.files[path]
}

// print is equal for sets that say the same.
func (s *Set) print() string {
	if s == nil {
		return ""
	}
	return strings.Join(s.prints, "\n")
}

func position(path string) component.Position { return component.Position{File: path} }

// resourceFiles returns the files of a folder that may hold resources.
func resourceFiles(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if isResourceFile(e.Name()) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

func isResourceFile(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml":
		return true
	}
	return false
}

// entry is what stands behind a path.
type entry uint8

const (
	nothing entry = iota
	aFile
	aFolder
	aLink
)

// look tells what stands behind a path, and where a link points to.
func look(path string) (kind entry, target string) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nothing, ""
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return nothing, ""
		}
		return aLink, target
	case info.IsDir():
		return aFolder, ""
	}
	return aFile, ""
}

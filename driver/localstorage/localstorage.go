// Package localstorage keeps files in a folder of the machine: those of an
// output binding, and the keys of a crypto provider.
package localstorage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "localstorage",
			Summary: "Keeps files in a folder of the machine that the sidecar runs on.",
		}, Config{DecodeBase64: true}, Open),
		crypto.Spec(component.Description{
			Name:    "dapr.localstorage",
			Aliases: []string{"localstorage"},
			Summary: "Uses the keys in a folder of the machine that the sidecar runs on.",
		}, KeysConfig{}, OpenKeys),
	}
}

// Config configures a folder of files.
//
// The operations are "create", "get", "delete" and "list"; the metadata
// "fileName" of a call names the file, or for "list" the folder, by its path
// below RootPath. Nothing outside of RootPath can be reached, whatever the
// path or a symbolic link says.
type Config struct {
	// RootPath is the folder. It is created when it does not exist.
	RootPath string `setting:"rootPath,required"`
	// DecodeBase64 makes "create" store the decoded bytes when its data are
	// valid Base64 in the standard alphabet, which is how binary data are
	// sent in JSON. Turn it off when texts that merely look so are to be kept
	// as they are.
	DecodeBase64 bool `setting:"decodeBase64"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if c.RootPath == "" {
		return component.Invalid("rootPath", "wants the path of a folder")
	}
	return nil
}

// forbidden are folders whose files are the system's, or its secrets.
func forbidden() []string {
	return []string{"/proc", "/sys", "/boot", "/var/run/secrets", "/run/secrets"}
}

// Store is a binding.Output.
type Store struct {
	cfg  Config
	path string // of root, absolute and without symbolic links
	root *os.Root
}

// Open opens the folder, and creates it when it does not exist.
func Open(_ context.Context, cfg Config, _ component.Env) (*Store, error) {
	abs, err := filepath.Abs(cfg.RootPath)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "rootPath %q", cfg.RootPath)
	}
	// Before it is created, so that nothing appears in a forbidden place; and
	// after, when all links can be followed.
	if err := allowed(cfg.RootPath, abs); err != nil {
		return nil, err
	}
	if parent, err := existing(abs); err == nil {
		if err := allowed(cfg.RootPath, parent); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(abs, 0o777); err != nil { //nolint:gosec // the umask decides
		return nil, fileError(err, "create rootPath %q", cfg.RootPath)
	}
	path, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, fileError(err, "open rootPath %q", cfg.RootPath)
	}
	if err := allowed(cfg.RootPath, path); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fileError(err, "open rootPath %q", cfg.RootPath)
	}
	return &Store{cfg: cfg, path: path, root: root}, nil
}

// existing returns what the nearest part of path that exists is without
// symbolic links.
func existing(path string) (string, error) {
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil || !os.IsNotExist(err) || path == filepath.Dir(path) {
			return real, err
		}
		path = filepath.Dir(path)
	}
}

func allowed(setting, path string) error {
	for _, f := range forbidden() {
		if path == f || strings.HasPrefix(path, f+"/") {
			return fault.New(fault.PermissionDenied, "rootPath %q must not be in %s", setting, f)
		}
	}
	return nil
}

// Close implements io.Closer.
func (s *Store) Close() error {
	if err := s.root.Close(); err != nil {
		return fmt.Errorf("close rootPath: %w", err)
	}
	return nil
}

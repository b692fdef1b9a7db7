package localstorage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// KeysConfig configures a folder of keys.
//
// Each file is one key, and its path below Path is the name of it. A file whose
// name ends in .json holds a JSON Web Key; one that ends in .pem a private or
// public key, or a certificate, in PEM form; any other one of these, or the
// bytes of a symmetric key, as they are or in Base64. A file is read whenever
// its key is used: a new one, or a change, counts at once.
type KeysConfig struct {
	// Path is the folder. A relative one is relative to the directory that the
	// sidecar runs in or, when there is no such folder, to the directory of the
	// component's own file.
	Path string `setting:"path,required"`
}

// Validate reports settings that can never work.
func (c KeysConfig) Validate() error {
	if c.Path == "" {
		return component.Invalid("path", "wants the path of a folder with keys")
	}
	return nil
}

// Keys is a crypto.Driver. Nothing outside of its folder can be reached,
// whatever a name or a symbolic link says.
type Keys struct{ root *os.Root }

// OpenKeys opens the folder, which must exist.
func OpenKeys(_ context.Context, cfg KeysConfig, env component.Env) (*Keys, error) {
	root, err := os.OpenRoot(env.Locate(cfg.Path))
	if err != nil {
		return nil, fileError(err, "open the folder of keys %q", cfg.Path)
	}
	return &Keys{root: root}, nil
}

// maxKey bounds a file with a key.
const maxKey = 1 << 20

// Key implements crypto.Driver.
func (k *Keys) Key(ctx context.Context, name string) (crypto.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	missing := fault.New(fault.NotFound, "there is no file %q in the folder of keys", name)
	if !fs.ValidPath(name) || strings.ContainsRune(name, 0) {
		return nil, missing
	}
	f, err := k.root.Open(filepath.FromSlash(name))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, missing
	case err != nil:
		return nil, fileError(err, "read key %q", name)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, missing
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, fileError(err, "read key %q", name)
	}
	format := crypto.AnyFormat
	switch strings.ToLower(filepath.Ext(name)) {
	case ".json":
		format = crypto.JWK
	case ".pem":
		format = crypto.PEM
	}
	return crypto.ParseKey(text, format)
}

// Close implements io.Closer.
func (k *Keys) Close() error { return k.root.Close() }

package localstorage

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/fault"
)

// Bounds of what a call reads into memory.
const (
	maxFile  = 256 << 20
	maxFiles = 100_000
)

// temporary begins the names of files that are being written. They are not
// listed.
const temporary = ".proa-writing-"

// Operations implements binding.Output.
func (s *Store) Operations() []string { return []string{"create", "get", "delete", "list"} }

// Repeatable implements binding.Repeatable.
func (s *Store) Repeatable(operation string) bool { return operation == "get" || operation == "list" }

// Invoke implements binding.Output.
func (s *Store) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := ctx.Err(); err != nil {
		return binding.Response{}, err
	}
	name, err := clean(r.Metadata["fileName"])
	if err != nil {
		return binding.Response{}, err
	}
	var data []byte
	switch r.Operation {
	case "create":
		data, err = s.create(name, r.Data)
	case "get":
		data, err = s.get(name)
	case "delete":
		err = s.remove(name)
	case "list":
		data, err = s.list(ctx, name)
	default:
		err = fault.New(fault.InvalidArgument, "there is no operation %q", r.Operation)
	}
	return binding.Response{Data: data}, err
}

// clean returns a fileName as a path below the root, "." for an empty one. A
// leading slash stands for the root.
func clean(name string) (string, error) {
	rel := path.Clean(strings.TrimLeft(filepath.ToSlash(name), "/"))
	if !filepath.IsLocal(filepath.FromSlash(rel)) {
		return "", fault.New(fault.InvalidArgument, "fileName %q leads out of rootPath", name)
	}
	if strings.ContainsRune(rel, 0) {
		return "", fault.New(fault.InvalidArgument, "fileName %q holds a zero byte", name)
	}
	return filepath.FromSlash(rel), nil
}

func needName(name string) error {
	if name == "." {
		return fault.New(fault.InvalidArgument, `metadata "fileName" is missing`)
	}
	return nil
}

// create writes a file as a whole: a reader sees the old one or the new one.
func (s *Store) create(name string, data []byte) ([]byte, error) {
	if name == "." {
		name = uuid.NewString()
	}
	dir := filepath.Dir(name)
	if err := s.root.MkdirAll(dir, 0o777); err != nil { //nolint:gosec // the umask decides
		return nil, fileError(err, "create folder %q", dir)
	}
	if info, err := s.root.Stat(name); err == nil && info.IsDir() {
		return nil, fault.New(fault.FailedPrecondition, "%q is a folder", name)
	}
	temp := filepath.Join(dir, temporary+rand.Text())
	if err := s.root.WriteFile(temp, s.decode(data), 0o666); err != nil { //nolint:gosec // the umask decides
		_ = s.root.Remove(temp)
		return nil, fileError(err, "create file %q", name)
	}
	if err := s.root.Rename(temp, name); err != nil {
		_ = s.root.Remove(temp)
		return nil, fileError(err, "create file %q", name)
	}
	return json.Marshal(map[string]string{"fileName": name})
}

// decode returns the content that data stand for: a JSON string stands for its
// text, and Base64 for the bytes it encodes.
func (s *Store) decode(data []byte) []byte {
	var text string
	if len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &text) == nil {
		data = []byte(text)
	}
	if s.cfg.DecodeBase64 {
		if decoded, err := base64.StdEncoding.DecodeString(string(data)); err == nil {
			return decoded
		}
	}
	return data
}

func (s *Store) get(name string) ([]byte, error) {
	if err := needName(name); err != nil {
		return nil, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, fileError(err, "get file %q", name)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fileError(err, "get file %q", name)
	}
	if len(data) > maxFile {
		return nil, fault.New(fault.ResourceExhausted, "file %q is larger than %d MiB", name, maxFile>>20)
	}
	return data, nil
}

func (s *Store) remove(name string) error {
	if err := needName(name); err != nil {
		return err
	}
	if err := s.root.Remove(name); err != nil {
		return fileError(err, "delete file %q", name)
	}
	return nil
}

// list returns the absolute paths of all files in the folder and in the
// folders below it.
func (s *Store) list(ctx context.Context, name string) ([]byte, error) {
	info, err := s.root.Stat(name)
	if err != nil {
		return nil, fileError(err, "list folder %q", name)
	}
	if !info.IsDir() {
		return nil, fault.New(fault.FailedPrecondition, "%q is a file and not a folder", name)
	}
	files := []string{}
	err = fs.WalkDir(s.root.FS(), filepath.ToSlash(name), func(p string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, fs.ErrNotExist): // what has just been deleted is no failure
			return fileError(err, "list folder %q", name)
		case err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), temporary):
			return nil
		case len(files) == maxFiles:
			return fault.New(fault.ResourceExhausted, "folder %q holds more than %d files", name, maxFiles)
		}
		files = append(files, filepath.Join(s.path, filepath.FromSlash(p)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(files)
}

// fileError names the failure of a file operation.
func fileError(err error, format string, args ...any) error {
	code, cause := fault.FailedPrecondition, err
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		cause = e.Err // without the path, which the message has
	} else if e, ok := errors.AsType[*os.LinkError](err); ok {
		cause = e.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = fault.PermissionDenied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		code = fault.ResourceExhausted
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL):
		code = fault.InvalidArgument
	}
	return fault.Wrap(cause, code, format, args...)
}

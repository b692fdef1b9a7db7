// Package wasm is the HTTP middleware that hands requests to a guest: a module of
// WebAssembly with the HTTP handler ABI of http-wasm (https://http-wasm.io).
package wasm

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	d := New()
	return []component.Spec{
		middleware.Spec(component.Description{
			Name:    "wasm",
			Summary: "Hands requests to a module of WebAssembly with the HTTP handler ABI of http-wasm.",
		}, Config{GuestTimeout: component.Duration(5 * time.Second), GuestMemory: 64 << 20, MaxGuests: 16, MaxBody: 16 << 20}, d.Open),
	}
}

// Config configures a guest.
//
// The module exports handle_request and handle_response, and imports what it
// needs of http_handler and of wasi_snapshot_preview1. It sees no files, no
// network and no environment. What it prints is logged.
//
// Contents pass by as streams, unless the guest asks for more with
// enable_features when it is started, or during a request: with buffer_request
// it can read the content of a request that goes on to be handled, with
// buffer_response look at an answer and change it before it is sent. Without
// buffer_request, what it reads is gone.
//
// A guest that traps, takes too long or wants too much memory is ended, and
// another one takes its place: the request is answered with 500.
type Config struct {
	// URL is where the module is: "file://path", relative to the file of the
	// component if need be, or "http://..." or "https://...". It is read when
	// the component is opened.
	URL string `setting:"url,required"`
	// GuestConfig is handed to the guest as it is (get_config).
	GuestConfig string `setting:"guestConfig"`
	// StrictSandbox gives the guest clocks that stand still and the same
	// random numbers every time. So does spec.wasm.strictSandbox of the
	// Configuration.
	StrictSandbox bool `setting:"strictSandbox"`
	// GuestTimeout is how long the guest may take for its part of a request,
	// not counting the time in which it waits for the client.
	GuestTimeout component.Duration `setting:"guestTimeout"`
	// GuestMemory is how much memory one guest may have.
	GuestMemory component.Size `setting:"guestMemory"`
	// MaxGuests is how many guests there may be at a time. Each handles one
	// request at a time; further ones wait.
	MaxGuests int `setting:"maxGuests"`
	// MaxBody is how large a content may be that the guest has buffered, or
	// writes.
	MaxBody component.Size `setting:"maxBodySize"`
}

// pageSize is the unit of a guest's memory.
const pageSize = 64 << 10

// Validate reports settings that can never work.
func (c Config) Validate() error {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme == "":
		return component.Invalid("url", "wants file://path, http://host/path or https://host/path")
	case u.Scheme == "oci":
		return component.Invalid("url", "names an image (oci://), which is not supported: serve the module by HTTP, or as a file")
	case u.Scheme != "file" && u.Scheme != "http" && u.Scheme != "https":
		return component.Invalid("url", "wants file://, http:// or https://, not %s://", u.Scheme)
	case c.GuestTimeout <= 0:
		return component.Invalid("guestTimeout", "wants a duration greater than 0")
	case c.GuestMemory < pageSize || c.GuestMemory > 4<<30:
		return component.Invalid("guestMemory", "wants a size from 64Ki to 4Gi")
	case c.MaxGuests < 1:
		return component.Invalid("maxGuests", "wants a number greater than 0")
	case c.MaxBody < 0:
		return component.Invalid("maxBodySize", "wants a size")
	}
	return nil
}

// maxModule bounds the size of a module, in bytes.
const maxModule = 64 << 20

// load returns the module that the settings name.
func load(ctx context.Context, cfg Config, env component.Env) ([]byte, error) {
	if path, ok := strings.CutPrefix(cfg.URL, "file://"); ok {
		f, err := os.Open(env.Locate(path))
		if err != nil {
			return nil, fault.Wrap(err, fault.NotFound, "the module cannot be read")
		}
		defer f.Close()
		return limited(f)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.URL, nil)
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "the URL of the module is not one")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "the module cannot be fetched: %s", reason(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.Unavailable, "the module cannot be fetched: the server answered %s", resp.Status)
	}
	return limited(resp.Body)
}

// reason returns why a request failed without its URL, which may hold a password.
func reason(err error) error {
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // as net/http returns it
		return u.Err
	}
	return err
}

func limited(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	switch {
	case err != nil:
		return nil, fault.Wrap(err, fault.Unavailable, "the module cannot be read")
	case len(b) > maxModule:
		return nil, fault.New(fault.ResourceExhausted, "the module is larger than %d bytes", maxModule)
	}
	return b, nil
}

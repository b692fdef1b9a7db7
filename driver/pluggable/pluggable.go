// Package pluggable lets components be written in any language: a component is a
// process of its own that serves the services of dapr.proto.components.v1 over
// gRPC on a Unix socket.
//
// A socket in the folder of [Folder] is a driver. It is called as its file is,
// without the ending: mystore.sock serves the types state.mystore,
// pubsub.mystore, bindings.mystore and secretstores.mystore, those of them whose
// services gRPC reflection shows. The process may come later than the sidecar,
// go, and come again: each time the sidecar connects it hands over the settings
// with Init, and only then calls anything else.
package pluggable

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// FolderVariable is the environment variable that names the folder of the
// sockets.
const FolderVariable = "DAPR_COMPONENTS_SOCKETS_FOLDER"

// DefaultFolder is the folder of the sockets when the variable is not set.
const DefaultFolder = "/tmp/dapr-components-sockets"

// Folder returns where the sockets of components are, or will be. chosen tells
// that somebody has named the folder, so that it is meant to be used even if
// there is none yet.
func Folder() (path string, chosen bool) {
	if path := os.Getenv(FolderVariable); path != "" {
		return path, true
	}
	return DefaultFolder, false
}

// Config holds the settings of a component. What they mean is the component's
// own business.
type Config struct {
	// Properties are all settings but those that hold keys for the sidecar
	// itself.
	Properties map[string]string `setting:"*"`
}

// lookWithin bounds how long Discover looks at the sockets there are, for the
// text of an error.
const lookWithin = time.Second

// Discover is a component.Discoverer. It knows a driver of every name for the
// blocks that components can plug into, as long as there is a folder for their
// sockets: whether there is a socket of that name turns out when the component
// is opened, which is tried again and again.
func Discover(block, name, version string) (spec component.Spec, ok bool, why string) {
	folder, chosen := Folder()
	k := kindOf(block)
	switch {
	case k == nil:
		return component.Spec{}, false, ""
	case !chosen && !isFolder(folder):
		return component.Spec{}, false, fmt.Sprintf("nor is there a pluggable component: there is no folder %s, and %s is not set", folder, FolderVariable)
	case version != "" && !strings.EqualFold(version, "v1") && !strings.EqualFold(version, "v0"):
		ctx, cancel := context.WithTimeout(context.Background(), lookWithin)
		defer cancel()
		return component.Spec{}, false, "nor can a pluggable component have another version than v1; " + look(ctx, folder)
	}
	return k.spec(place{folder, strings.ToLower(name)}), true, ""
}

// A kind is a block that components can plug into.
type kind struct {
	block    string
	services []string // one of these makes a process one of the kind
	spec     func(place) component.Spec
}

const pkg = "dapr.proto.components.v1."

// The services of components.
const (
	serviceState     = pkg + "StateStore"
	serviceTransact  = pkg + "TransactionalStateStore"
	serviceMaxSize   = pkg + "TransactionalStoreMultiMaxSize"
	serviceQuery     = pkg + "QueriableStateStore"
	servicePubSub    = pkg + "PubSub"
	serviceInput     = pkg + "InputBinding"
	serviceOutput    = pkg + "OutputBinding"
	serviceSecret    = pkg + "SecretStore"
	reflectionPrefix = "grpc.reflection."
)

func kinds() []kind {
	return []kind{
		{state.Block, []string{serviceState}, stateSpec},
		{pubsub.Block, []string{servicePubSub}, pubsubSpec},
		{binding.Block, []string{serviceInput, serviceOutput}, bindingSpec},
		{secret.Block, []string{serviceSecret}, secretSpec},
	}
}

func kindOf(block string) *kind {
	all := kinds()
	if i := slices.IndexFunc(all, func(k kind) bool { return strings.EqualFold(k.block, block) }); i >= 0 {
		return &all[i]
	}
	return nil
}

func describe(p place, what string) component.Description {
	return component.Description{
		Name: p.name, Summary: what + " in the process behind " + filepath.Join(p.folder, p.name+".sock") + ".",
	}
}

// A place is where the socket of a component is to be.
type place struct {
	folder string
	name   string // in lower case
}

// find returns the path of the socket; "" when there is none.
func (p place) find() (string, error) {
	all, err := sockets(p.folder)
	if err != nil {
		return "", err
	}
	for _, path := range all {
		if strings.EqualFold(nameOf(path), p.name) {
			return path, nil
		}
	}
	return "", nil
}

func nameOf(socket string) string {
	file := filepath.Base(socket)
	return strings.TrimSuffix(file, filepath.Ext(file))
}

// sockets returns the paths of the sockets in a folder, by name. A folder that
// there is not has none.
func sockets(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		mode := e.Type()
		if mode&fs.ModeSymlink != 0 {
			if info, err := os.Stat(filepath.Join(folder, e.Name())); err == nil {
				mode = info.Mode()
			}
		}
		if mode&fs.ModeSocket != 0 {
			out = append(out, filepath.Join(folder, e.Name()))
		}
	}
	return out, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// maxLooks is how many sockets look asks what they serve.
const maxLooks = 20

// look says in words which sockets there are, and what is behind them.
func look(ctx context.Context, folder string) string {
	all, err := sockets(folder)
	switch {
	case err != nil:
		return "the folder of sockets cannot be read: " + err.Error()
	case !isFolder(folder):
		return "there is no folder " + folder
	case len(all) == 0:
		return "there is no socket in " + folder
	}
	var seen []string
	for _, path := range all[:min(len(all), maxLooks)] {
		seen = append(seen, filepath.Base(path)+" ("+typesOf(ctx, path)+")")
	}
	out := fmt.Sprintf("in %s there is %s", folder, strings.Join(seen, ", "))
	if more := len(all) - len(seen); more > 0 {
		out += fmt.Sprintf(" and %d more", more)
	}
	return out
}

// typesOf says in words which types of components a socket serves.
func typesOf(ctx context.Context, path string) string {
	services, err := servicesOf(ctx, path)
	if err != nil {
		return "nobody answers"
	}
	var types []string
	for _, k := range kinds() {
		if slices.ContainsFunc(k.services, func(s string) bool { return slices.Contains(services, s) }) {
			types = append(types, k.block+"."+strings.ToLower(nameOf(path)))
		}
	}
	if len(types) == 0 {
		return "no component"
	}
	return strings.Join(types, ", ")
}

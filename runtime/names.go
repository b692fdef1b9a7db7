package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/resource"
)

// resolution is how applications find each other.
type resolution struct {
	sources    []discovery.Source
	registrars []discovery.Registrar
	services   []service // which keep what the others stand on open
}

// resolverWait is how long a question waits for a name resolution that is not
// open, before it is told why.
const resolverWait = time.Second

// newResolution reads the Configuration's nameResolution. Without one,
// applications find each other in the registry of the engine.
func newResolution(nr *resource.NameResolution, catalog *component.Catalog, cfg *Config) (*resolution, error) {
	var chosen []resource.NameResolver
	if nr != nil {
		chosen = append([]resource.NameResolver{nr.NameResolver}, nr.Also...)
	} else {
		chosen = []resource.NameResolver{{}}
	}
	out := &resolution{}
	var errs []error
	for i, r := range chosen {
		field := "spec.nameResolution"
		if i > 0 {
			field += fmt.Sprintf(".also[%d]", i-1)
			if r.Component == "" {
				errs = append(errs, wrongResolver(r, field+".component", "is required"))
				continue
			}
		}
		errs = append(errs, out.add(r, field, catalog, cfg))
	}
	return out, errors.Join(errs...)
}

// add takes in one way to find applications.
func (n *resolution) add(r resource.NameResolver, field string, catalog *component.Catalog, cfg *Config) error {
	if r.Component == "" {
		r.Component = discovery.DefaultResolution
	}
	name := strings.TrimPrefix(r.Component, discovery.Block+".")
	spec, err := catalog.Lookup(discovery.Block+"."+name, r.Version)
	if err != nil {
		return wrongResolver(r, field+".component", "%s", unknownResolver(name, err, catalog))
	}
	settings := r.Configuration.Settings(spec.Grouped)
	if err := spec.Check(settings); err != nil {
		return fmt.Errorf("%w\n(in %s of the Configuration, name resolution %q)", err, field, r.Component)
	}
	env := component.Env{
		Name: r.Component, AppID: cfg.AppID, Namespace: cfg.Namespace, InternalPort: cfg.InternalPort,
		Log: cfg.Log.With("name_resolution", spec.Name),
	}
	if r.Pos.File != "" {
		env.Dir = filepath.Dir(r.Pos.File)
	}
	d := openedResolver{component.NewHandle(component.HandleOptions{
		Name: r.Component, Type: spec.Type(), Wait: resolverWait, Log: env.Log,
	}, component.Opener[discovery.Driver](spec, settings, env))}
	n.sources = append(n.sources, d)
	n.services = append(n.services, service{"name resolution " + spec.Name, d.handle.Run})
	if slices.Contains(spec.Capabilities, "register") {
		n.registrars = append(n.registrars, d)
	}
	return nil
}

func wrongResolver(r resource.NameResolver, field, format string, args ...any) error {
	return &resource.Error{Pos: r.Pos, Resource: "Configuration", Field: field, Problem: fmt.Sprintf(format, args...)}
}

// unknownResolver says that there is no such name resolution, and which there
// are.
func unknownResolver(name string, cause error, catalog *component.Catalog) string {
	var names []string
	for _, s := range catalog.Specs() {
		if s.Block == discovery.Block {
			names = append(append(names, s.Name), s.Aliases...)
			if strings.EqualFold(s.Name, name) || slices.ContainsFunc(s.Aliases, func(a string) bool { return strings.EqualFold(a, name) }) {
				return cause.Error() // of another version
			}
		}
	}
	problem := fmt.Sprintf("there is no name resolution %q", name)
	if why, known := notOffered()[strings.ToLower(name)]; known {
		return problem + ": " + why
	}
	if near := component.Nearest(name, names); near != "" {
		return problem + fmt.Sprintf("; did you mean %q?", near)
	}
	slices.Sort(names)
	return problem + "; there is " + strings.Join(names, ", ")
}

// notOffered are name resolutions that others have, and what to use in place of
// them.
func notOffered() map[string]string {
	return map[string]string{
		"aws.cloudmap":     "Cloud Map is not supported; it also keeps names in the DNS, which dns finds",
		"structuredformat": "use static, or file",
	}
}

// openedResolver is a name resolution that is opened in the background.
type openedResolver struct {
	handle *component.Handle[discovery.Driver]
}

// Watch implements discovery.Source.
func (r openedResolver) Watch(ctx context.Context, svc discovery.Service, update func([]discovery.Endpoint)) error {
	d, err := r.handle.Get(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	return d.Watch(ctx, svc, update)
}

// Register implements discovery.Registrar.
func (r openedResolver) Register(ctx context.Context, a *discovery.Announcement) error {
	r.handle.Await(ctx)
	if ctx.Err() != nil {
		return nil
	}
	d, err := r.handle.Get(ctx)
	if err != nil {
		return err
	}
	if registrar, ok := d.(discovery.Registrar); ok {
		return registrar.Register(ctx, a)
	}
	<-ctx.Done()
	return nil
}

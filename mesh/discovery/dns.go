package discovery

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
)

// DNS finds applications by name in the DNS and asks again every Refresh.
type DNS struct {
	// Name is the name to look up; {appID} and {namespace} are filled in. A
	// name that starts with "_" is looked up as SRV (RFC 2782), which brings
	// ports; any other as addresses.
	Name string
	// Port is where sidecars take calls, for names that bring no port.
	Port int
	// Refresh is how often to ask; 5 s when zero.
	Refresh time.Duration
	// Resolver asks; net.DefaultResolver when nil.
	Resolver *net.Resolver
}

// Watch implements Source.
func (d *DNS) Watch(ctx context.Context, svc Service, update func([]Endpoint)) error {
	refresh := d.Refresh
	if refresh <= 0 {
		refresh = 5 * time.Second
	}
	for {
		list, err := d.lookup(ctx, svc)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		update(list)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(refresh):
		}
	}
}

func (d *DNS) lookup(ctx context.Context, svc Service) ([]Endpoint, error) {
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	name := strings.NewReplacer("{appID}", svc.AppID, "{namespace}", svc.Namespace).Replace(d.Name)
	var list []Endpoint
	if strings.HasPrefix(name, "_") {
		_, records, err := resolver.LookupSRV(ctx, "", "", name)
		if err := lookupError(name, err); err != nil {
			return nil, err
		}
		for _, r := range records {
			host := strings.TrimSuffix(r.Target, ".")
			list = append(list, Endpoint{Address: net.JoinHostPort(host, strconv.Itoa(int(r.Port)))})
		}
		return list, nil
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", name)
	if err := lookupError(name, err); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		list = append(list, Endpoint{Address: net.JoinHostPort(a.Unmap().String(), strconv.Itoa(d.Port))})
	}
	return list, nil
}

// lookupError returns nil for a name that does not exist: nobody is there.
func lookupError(name string, err error) error {
	var de *net.DNSError
	if err == nil || errors.As(err, &de) && de.IsNotFound {
		return nil
	}
	return fault.Wrap(err, fault.Unavailable, "look up %q", name)
}

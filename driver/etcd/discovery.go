package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
)

// NamesConfig configures a name resolution in etcd.
//
// An instance is the key "<keyPrefixPath>/discovery/<namespace>/<app>/<id>", each
// part escaped as in the path of a URL, with the endpoint as JSON: address, id,
// mtls, protocol, weight, locality, priority, labels, health. It lives as long as
// a lease that the instance renews.
type NamesConfig struct {
	Config
	// LeaseTTL is how long an instance is remembered that has died.
	LeaseTTL component.Duration `setting:"leaseTTL"`
}

func namesDefaults() NamesConfig { return NamesConfig{LeaseTTL: component.Duration(10 * time.Second)} }

// Validate reports settings that can never work.
func (c NamesConfig) Validate() error {
	if t := c.LeaseTTL.Std(); t < 2*time.Second || t > time.Hour || t%time.Second != 0 {
		return component.Invalid("leaseTTL", "wants whole seconds, 2s to 1h, not %v", t)
	}
	return c.Config.Validate()
}

// Names is a discovery.Driver and a discovery.Registrar.
type Names struct {
	client *client
	prefix string
	ttl    time.Duration
}

// OpenNames connects to a cluster.
func OpenNames(ctx context.Context, cfg NamesConfig, _ component.Env) (*Names, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Names{c, cfg.path() + "discovery/", cfg.LeaseTTL.Std()}, nil
}

// Close implements io.Closer.
func (n *Names) Close() error {
	n.client.close()
	return nil
}

// folder returns what all keys of the instances of svc begin with.
func (n *Names) folder(svc discovery.Service) string {
	return n.prefix + url.PathEscape(svc.Namespace) + "/" + url.PathEscape(svc.AppID) + "/"
}

// Watch implements discovery.Source.
func (n *Names) Watch(ctx context.Context, svc discovery.Service, update func([]discovery.Endpoint)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the watch of the client library
	prefix := n.folder(svc)
	now, err := n.client.Get(ctx, prefix, clientv3.WithPrefix())
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return n.client.classify(ctx, err)
	}
	known := map[string]discovery.Endpoint{}
	for _, kv := range now.Kvs {
		note(known, kv)
	}
	report(known, update)
	changes := n.client.Client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1))
	var due <-chan time.Time // when there is something to report
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-due:
			due = nil
			report(known, update)
		case answer, more := <-changes:
			switch err := answer.Err(); {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				return n.client.classify(ctx, err)
			case !more:
				return n.client.classify(ctx, errWatchEnded())
			}
			for _, e := range answer.Events {
				if e.Type == mvccpb.DELETE {
					delete(known, string(e.Kv.Key))
				} else {
					note(known, e.Kv)
				}
			}
			if due == nil {
				due = time.After(gather)
			}
		}
	}
}

// gather is how long changes are gathered before they are reported, so that a
// thousand that come together are not a thousand lists.
const gather = 10 * time.Millisecond

// note takes in one key. What a later version has written is passed over.
func note(known map[string]discovery.Endpoint, kv *mvccpb.KeyValue) {
	var ep discovery.Endpoint
	if json.Unmarshal(kv.Value, &ep) != nil || ep.Address == "" {
		delete(known, string(kv.Key))
		return
	}
	known[string(kv.Key)] = ep
}

func report(known map[string]discovery.Endpoint, update func([]discovery.Endpoint)) {
	list := make([]discovery.Endpoint, 0, len(known))
	for _, ep := range known {
		list = append(list, ep)
	}
	update(list)
}

// Pauses between attempts of a registration that fails.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Register implements discovery.Registrar.
func (n *Names) Register(ctx context.Context, a *discovery.Announcement) error {
	ep, changed := a.Endpoint()
	id := ep.ID
	if id == "" {
		id = uuid.NewString()
	}
	r := registration{names: n, key: n.folder(a.Service) + url.PathEscape(id)}
	pause := firstPause
	for {
		wait := n.ttl / 3
		if err := r.keep(ctx, ep); err == nil {
			pause = firstPause
		} else {
			wait, pause = pause, min(2*pause, lastPause)
		}
		select {
		case <-ctx.Done():
			r.withdraw(ctx)
			return nil
		case <-changed:
			ep, changed = a.Endpoint()
			r.said = false
		case <-time.After(wait):
		}
	}
}

// registration is one instance in etcd.
type registration struct {
	names *Names
	key   string
	lease clientv3.LeaseID // 0 for none
	said  bool             // that the key holds what is to be announced
}

// keep makes sure that the instance stands in etcd and lives on.
func (r *registration) keep(ctx context.Context, ep discovery.Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, r.names.ttl)
	defer cancel()
	c := r.names.client
	if r.lease != 0 && r.said {
		_, err := c.KeepAliveOnce(ctx, r.lease)
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		r.lease = 0 // it took too long, or the cluster has begun anew
	}
	if r.lease == 0 {
		lease, err := c.Grant(ctx, int64(r.names.ttl/time.Second))
		if err != nil {
			return err
		}
		r.lease = lease.ID
	}
	value, err := json.Marshal(ep)
	if err != nil {
		return fault.Wrap(err, fault.Internal, "encode endpoint")
	}
	_, err = c.Put(ctx, r.key, string(value), clientv3.WithLease(r.lease))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		r.lease = 0
	}
	r.said = err == nil
	return err
}

// withdraw removes the instance at once. If the cluster is away, the lease ends
// by itself.
func (r *registration) withdraw(ctx context.Context) {
	if r.lease == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_, _ = r.names.client.Revoke(ctx, r.lease) // see above
}

package runtime

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/all"
	"github.com/proa-io/proa/resource"
)

// Report is what Validate found.
type Report struct {
	Components, Subscriptions, Resiliencies, HTTPEndpoints, Routes int
	// Ignored lists documents of kinds that are not read.
	Ignored []resource.Ignored
}

// Validate checks resources as New would read them, for one application or,
// when appID is empty, for all, without opening anything. The error joins all
// problems, each with its place.
func Validate(paths, configPaths []string, appID string) (Report, error) {
	set, err := resource.Load(resource.Options{Paths: paths, ConfigPaths: configPaths, AppID: appID})
	report := Report{
		Components: len(set.Components), Subscriptions: len(set.Subscriptions),
		Resiliencies: len(set.Resiliencies), HTTPEndpoints: len(set.HTTPEndpoints), Routes: set.Gateway.Routes(), Ignored: set.Ignored,
	}
	errs := []error{err}
	catalog, err := all.Catalog(all.Deps{})
	if err != nil {
		return report, err
	}
	log := slog.New(slog.DiscardHandler)
	cfg := &Config{AppID: appID, Namespace: "default", Log: log}
	p, err := compilePolicies(set.Resiliencies)
	errs = append(errs, err)
	b := &builder{cfg: cfg, set: set, catalog: catalog, resiliency: newResiliency(p, log, nil, nil)}
	comps, err := b.build(withDefaults(set))
	errs = append(errs, err, checkSubscriptions(set, comps, appID), checkPipelines(set, comps), checkLimits(set, comps), checkRoutes(set, cfg.Namespace))
	if _, err := newResolution(set.Configuration.Spec.NameResolution, catalog, cfg); err != nil {
		errs = append(errs, err)
	}
	return report, errors.Join(errs...)
}

// checkSubscriptions checks the declarative subscriptions against the
// components they name.
func checkSubscriptions(set *resource.Set, comps *components, appID string) error {
	var errs []error
	for i := range set.Subscriptions {
		s := &set.Subscriptions[i]
		spec := subscriptionSpec(s)
		broker, ok := comps.brokers[spec.PubSub]
		if !ok {
			errs = append(errs, &resource.Error{Pos: s.Position(), Resource: "Subscription " + s.Name(), Field: "spec.pubsubname",
				Problem: fmt.Sprintf("there is no pubsub component %q%s", spec.PubSub, hint(spec.PubSub, comps.brokers))})
			continue
		}
		if appID == "" && len(spec.Scopes) > 0 {
			continue // topic scopes are checked for a given application only
		}
		if err := broker.Check(&spec); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func hint[T any](name string, there map[string]T) string {
	var names []string
	for n := range there {
		names = append(names, n)
	}
	if near := component.Nearest(name, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// subscriptionSpec turns a resource into what the block takes.
func subscriptionSpec(s *resource.Subscription) pubsub.SubscriptionSpec {
	spec := pubsub.SubscriptionSpec{
		Type: pubsub.Declarative, Name: s.Name(), Pos: s.Position(),
		PubSub: s.Spec.PubsubName, Topic: s.Spec.Topic, DefaultRoute: s.Spec.Routes.Default,
		DeadLetterTopic: s.Spec.DeadLetterTopic, Metadata: s.Spec.Metadata, Scopes: s.Scopes(),
		RawPayload: s.Spec.Metadata["rawPayload"] == "true",
		Bulk: pubsub.BulkSpec{
			Enabled: s.Spec.BulkSubscribe.Enabled, MaxMessages: int(s.Spec.BulkSubscribe.MaxMessagesCount),
			MaxAwait: millis(s.Spec.BulkSubscribe.MaxAwaitDurationMs),
		},
	}
	for _, r := range s.Spec.Routes.Rules {
		spec.Rules = append(spec.Rules, pubsub.Rule{Match: r.Match, Path: r.Path, Pos: r.Pos})
	}
	return spec
}

func millis(n int32) time.Duration { return time.Duration(n) * time.Millisecond }

package engine

import (
	"context"
	"errors"
	"reflect"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// Stream creates the stream, or updates it when it exists with another
// configuration, and returns it on the connection that ConnFor gives for the
// stream's name. The engine sets Replicas where cfg leaves it 0. A write
// happens only when something differs, so it is cheap to call at every start,
// by several sidecars at once.
func (e *Engine) Stream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	c, err := e.ConnFor(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	cfg.Replicas = orDefault(cfg.Replicas, e.Replicas())
	var out jetstream.Stream
	err = c.Do(ctx, func(ctx context.Context) (err error) {
		out, err = ensureStream(ctx, c.js, cfg)
		return err
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.CodeOf(err), "stream %q", cfg.Name)
	}
	return out, nil
}

func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	there, err := js.Stream(ctx, cfg.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		made, err := js.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another was faster
			return js.UpdateStream(ctx, cfg)
		}
		return made, err
	case err != nil:
		return nil, err
	}
	has := there.CachedInfo().Config
	// These can be turned on and never off again; another sidecar wants them.
	cfg.AllowMsgTTL = cfg.AllowMsgTTL || has.AllowMsgTTL
	cfg.AllowAtomicPublish = cfg.AllowAtomicPublish || has.AllowAtomicPublish
	cfg.SubjectDeleteMarkerTTL = orDefault(cfg.SubjectDeleteMarkerTTL, has.SubjectDeleteMarkerTTL)
	cfg.DenyDelete = cfg.DenyDelete || has.DenyDelete
	cfg.DenyPurge = cfg.DenyPurge || has.DenyPurge
	if sameStream(has, cfg) {
		return there, nil
	}
	return js.UpdateStream(ctx, cfg)
}

// sameStream reports whether the server's configuration is what is wanted. A
// field that is left zero takes the server's default and so does not count,
// except where zero is a choice.
func sameStream(there, want jetstream.StreamConfig) bool {
	t, w := reflect.ValueOf(there), reflect.ValueOf(want)
	for i := range w.NumField() {
		if w.Type().Field(i).Name == "Metadata" {
			continue // the server adds its own
		}
		if w.Field(i).IsZero() && !zeroIsChoice(w.Type().Field(i).Name) {
			continue
		}
		if !reflect.DeepEqual(t.Field(i).Interface(), w.Field(i).Interface()) {
			return false
		}
	}
	for k, v := range want.Metadata {
		if there.Metadata[k] != v {
			return false
		}
	}
	return true
}

// zeroIsChoice names the fields whose zero value the server keeps as it is
// and that can be updated.
func zeroIsChoice(field string) bool {
	switch field {
	case "Description", "Retention", "Storage", "MaxAge", "Compression", "Discard", "AllowDirect", "AllowRollup", "NoAck":
		return true
	}
	return false
}

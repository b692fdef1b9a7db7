package binding

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/proa-io/proa/fault"
)

// AppResponse is an application's answer to an event. Its JSON form is that of
// an HTTP application; data may be any JSON value there.
type AppResponse struct {
	// StoreName names the state store that takes State.
	StoreName string
	// State are items to save.
	State []StateItem
	// To names output bindings that get Data with the operation "create".
	To []string
	// Data is what they get.
	Data []byte
	// Parallel lets them get it at the same time, instead of one after the
	// other until one fails.
	Parallel bool
}

// StateItem is an item that an application wants saved.
type StateItem struct {
	Key         string
	Value       []byte
	ETag        *string
	Metadata    map[string]string
	Concurrency string // "first-write", "last-write" or empty
	Consistency string // "strong", "eventual" or empty
}

// ParseAppResponse reads the body of an HTTP application's answer to an event.
// Nothing obliges the application to answer in this form: a body that is not
// a JSON object, or asks for nothing, gives nil.
func ParseAppResponse(body []byte) *AppResponse {
	var r struct {
		StoreName   string          `json:"storeName"`
		State       []jsonStateItem `json:"state"`
		To          []string        `json:"to"`
		Data        json.RawMessage `json:"data"`
		Concurrency string          `json:"concurrency"`
	}
	if json.Unmarshal(body, &r) != nil || len(r.State) == 0 && len(r.To) == 0 {
		return nil
	}
	out := &AppResponse{StoreName: r.StoreName, To: r.To, Data: r.Data, Parallel: r.Concurrency == "parallel"}
	for _, s := range r.State {
		out.State = append(out.State, StateItem{
			Key: s.Key, Value: s.Value, ETag: s.ETag, Metadata: s.Metadata,
			Concurrency: s.Options.Concurrency, Consistency: s.Options.Consistency,
		})
	}
	return out
}

type jsonStateItem struct {
	Key      string            `json:"key"`
	Value    json.RawMessage   `json:"value"`
	ETag     *string           `json:"etag"`
	Metadata map[string]string `json:"metadata"`
	Options  struct {
		Concurrency string `json:"concurrency"`
		Consistency string `json:"consistency"`
	} `json:"options"`
}

func (r *AppResponse) carryOut(ctx context.Context, outlet Outlet) error {
	if len(r.State) > 0 {
		if err := outlet.SaveState(ctx, r.StoreName, r.State); err != nil {
			return fault.Wrap(err, fault.CodeOf(err), "save the state of the application's answer")
		}
	}
	send := func(name string) error {
		err := outlet.InvokeBinding(ctx, name, Request{Operation: "create", Data: r.Data})
		if err != nil {
			return fault.Wrap(err, fault.CodeOf(err), "send the application's answer to binding %q", name)
		}
		return nil
	}
	if r.Parallel {
		return r.sendAll(send)
	}
	for _, name := range r.To {
		if err := send(name); err != nil {
			return err
		}
	}
	return nil
}

func (r *AppResponse) sendAll(send func(name string) error) error {
	errs := make([]error, len(r.To))
	var sending sync.WaitGroup
	for i, name := range r.To {
		sending.Go(func() { errs[i] = send(name) })
	}
	sending.Wait()
	return errors.Join(errs...)
}

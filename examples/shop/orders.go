package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Order is what a customer wants, and what became of it.
type Order struct {
	ID        string `json:"id"`
	Item      string `json:"item"`
	Quantity  int    `json:"quantity"`
	Total     int    `json:"total,omitempty"`
	Signature string `json:"signature,omitempty"`
	Status    string `json:"status,omitempty"`
}

// runOrders takes orders: it asks catalog for the price (invocation), reserves
// the goods (lock and state), signs the order (secret), keeps it (state) and
// tells the world (publish).
func runOrders(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var o Order
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		if err := place(r.Context(), &o); err != nil {
			fmt.Println("order", o.ID, "failed:", err)
			reply(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
			return
		}
		fmt.Println("order", o.ID, o.Status)
		reply(w, http.StatusOK, o)
	})
	return serve(ctx, mux)
}

func place(ctx context.Context, o *Order) error {
	var price struct{ Price int }
	if _, _, err := call(ctx, "GET", "/v1.0/invoke/catalog/method/price/"+o.Item, nil, &price); err != nil {
		return err
	}
	o.Total = price.Price * o.Quantity
	ok, err := reserve(ctx, o)
	if err != nil {
		return err
	}
	if o.Status = "placed"; !ok {
		o.Status = "sold out"
		return nil
	}
	var secret map[string]string
	if _, _, err := call(ctx, "GET", "/v1.0/secrets/vault/signing-key", nil, &secret); err != nil {
		return err
	}
	mac := hmac.New(sha256.New, []byte(secret["signing-key"]))
	fmt.Fprint(mac, o.ID, o.Total)
	o.Signature = hex.EncodeToString(mac.Sum(nil))[:12]
	if _, _, err := call(ctx, "POST", "/v1.0/state/statestore", []any{map[string]any{"key": "order-" + o.ID, "value": o}}, nil); err != nil {
		return err
	}
	kind := "order.small"
	if o.Total >= 100 {
		kind = "order.big"
	}
	_, _, err = call(ctx, "POST", "/v1.0/publish/pubsub/orders?metadata.cloudevent.type="+kind, o, nil)
	return err
}

// reserve takes the goods out of stock. The lock lets one order at a time look
// at an item's stock; the etag would catch a writer that does not lock.
func reserve(ctx context.Context, o *Order) (bool, error) {
	lock := map[string]any{"resourceId": "stock-" + o.Item, "lockOwner": o.ID, "expiryInSeconds": 10}
	for {
		var got struct{ Success bool }
		if _, _, err := call(ctx, "POST", "/v1.0-alpha1/lock/lockstore", lock, &got); err != nil {
			return false, err
		}
		if got.Success {
			break
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	defer func() {
		if _, _, err := call(context.WithoutCancel(ctx), "POST", "/v1.0-alpha1/unlock/lockstore", lock, nil); err != nil {
			fmt.Println("unlock:", err)
		}
	}()
	stock := 5
	status, etag, err := call(ctx, "GET", "/v1.0/state/statestore/stock-"+o.Item, nil, &stock)
	if err != nil {
		return false, err
	}
	if stock < o.Quantity {
		return false, nil
	}
	item := map[string]any{"key": "stock-" + o.Item, "value": stock - o.Quantity}
	if status != http.StatusNoContent {
		item["etag"], item["options"] = etag, map[string]string{"concurrency": "first-write"}
	}
	_, _, err = call(ctx, "POST", "/v1.0/state/statestore", []any{item}, nil)
	return err == nil, err
}

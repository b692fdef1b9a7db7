package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
)

// parcel is an order that shipping has dealt with, and how.
type parcel struct {
	Order  string `json:"order"`
	Route  string `json:"route"`
	Reason string `json:"reason,omitempty"`
}

// runShipping sends what was ordered. Which of its paths gets an order is
// decided by the subscription: big ones go by lorry, small ones by bicycle, and
// those that could not be processed arrive at /dead.
func runShipping(ctx context.Context) error {
	var mu sync.Mutex
	var sent []parcel
	ship := func(route string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var event struct {
				Data   Order
				Reason string `json:"deadletterreason"`
			}
			if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
				reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			if event.Data.Item == "mirror" && route != "dead" {
				fmt.Println("the mirror of order", event.Data.ID, "broke")
				reply(w, http.StatusInternalServerError, map[string]string{"error": "it broke"})
				return
			}
			fmt.Println("order", event.Data.ID, "goes by", route, event.Reason)
			mu.Lock()
			sent = append(sent, parcel{event.Data.ID, route, event.Reason})
			mu.Unlock()
			reply(w, http.StatusOK, map[string]string{"status": "SUCCESS"})
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /lorry", ship("lorry"))
	mux.HandleFunc("POST /bicycle", ship("bicycle"))
	mux.HandleFunc("POST /dead", ship("dead"))
	mux.HandleFunc("GET /sent", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		reply(w, http.StatusOK, append([]parcel{}, sent...))
	})
	return serve(ctx, mux)
}

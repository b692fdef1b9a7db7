package main

import (
	"context"
	"net/http"
)

// runCatalog knows what things cost.
func runCatalog(ctx context.Context) error {
	prices := map[string]int{"tea": 4, "teapot": 60, "mirror": 13}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /price/{item}", func(w http.ResponseWriter, r *http.Request) {
		price, ok := prices[r.PathValue("item")]
		if !ok {
			reply(w, http.StatusNotFound, map[string]string{"error": "there is no " + r.PathValue("item")})
			return
		}
		reply(w, http.StatusOK, map[string]int{"price": price})
	})
	return serve(ctx, mux)
}

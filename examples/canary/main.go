// Canary brings a new version of a service to its users step by step: 1 %, 10 %,
// all of them, by editing one file while requests are under way.
//
// Without arguments but --proa it plays the story. With the name of a service it
// is that service: "shop", which asks reviews, or "v1" and "v2" of reviews.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	role := ""
	if len(os.Args) == 2 {
		role = os.Args[1]
	}
	var err error
	switch role {
	case "shop":
		err = serve(ctx, shop)
	case "v1", "v2":
		err = serve(ctx, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, role) })
	default:
		err = play(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "canary:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

// shop asks reviews, and does not know that there is more than one version.
func shop(w http.ResponseWriter, r *http.Request) {
	url := "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/invoke/reviews/method/reviews/1"
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if tester := r.Header.Get("X-Tester"); tester != "" {
		req.Header.Set("X-Tester", tester)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the one who asked is gone if this fails
}

// serve runs a service on the port its sidecar calls, until ctx ends.
func serve(ctx context.Context, handler http.HandlerFunc) error {
	srv := &http.Server{Addr: "127.0.0.1:" + os.Getenv("APP_PORT"), Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(end)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

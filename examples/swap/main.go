// Swap counts its visits in a state store. It does not know which one: start it
// with another resources folder and the same program counts elsewhere.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n, err := visit(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "swap:", err)
		cancel()
		os.Exit(1) //nolint:gocritic // cancel has been called
	}
	fmt.Printf("visit %d\n", n)
}

// visit adds one to the counter, again when somebody else did so meanwhile.
func visit(ctx context.Context) (int, error) {
	store := "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/state/statestore"
	for {
		n, etag, err := read(ctx, store+"/visits")
		if err != nil {
			return 0, err
		}
		item := map[string]any{"key": "visits", "value": n + 1, "options": map[string]string{"concurrency": "first-write"}}
		if etag != "" {
			item["etag"] = etag
		}
		body, err := json.Marshal([]any{item})
		if err != nil {
			return 0, err
		}
		status, answer, _, err := do(ctx, http.MethodPost, store, body)
		switch {
		case err != nil:
			return 0, err
		case status == http.StatusConflict:
			continue // somebody was faster
		case status >= 300:
			return 0, fmt.Errorf("saving: %d %s", status, answer)
		}
		return n + 1, nil
	}
}

func read(ctx context.Context, url string) (n int, etag string, err error) {
	status, body, etag, err := do(ctx, http.MethodGet, url, nil)
	switch {
	case err != nil:
		return 0, "", err
	case status == http.StatusNoContent:
		return 0, "", nil
	case status >= 300:
		return 0, "", fmt.Errorf("reading: %d %s", status, body)
	}
	return n, etag, json.Unmarshal(body, &n)
}

func do(ctx context.Context, method, url string, body []byte) (status int, answer []byte, etag string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, resp.Header.Get("ETag"), err
}

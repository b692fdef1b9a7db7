package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// appMain is the program `app` of the scripts: an application that prints what
// happens to it, one line each. The port is -port, or APP_PORT as `proa run`
// sets it.
//
//	-subscribe PUBSUB/TOPIC,...   what it tells the sidecar it subscribes to;
//	                              events arrive at /on/TOPIC
//	-stubborn                     it does not stop when it is asked to
//	-deaf                         it does not answer OPTIONS
//
// It answers, apart from events:
//
//	/hello       a greeting
//	/echo        what was sent, and the tokens and ids in the header
//	/call/APP/…  invokes another application through its sidecar
//	/hold        answers when somebody asks for /release, or the app is told to stop
//	/job/NAME    the trigger of a job
//	/healthz     200, or 503 between /sick and /well
//	/refuse      from now on events are answered with 500, until /accept
func appMain() {
	var a app
	port := flag.String("port", os.Getenv("APP_PORT"), "")
	subscribe := flag.String("subscribe", "", "")
	stubborn := flag.Bool("stubborn", false, "")
	flag.BoolVar(&a.deaf, "deaf", false, "")
	flag.Parse()
	for s := range strings.SplitSeq(*subscribe, ",") {
		if pubsub, topic, ok := strings.Cut(s, "/"); ok {
			a.subscriptions = append(a.subscriptions, map[string]string{"pubsubname": pubsub, "topic": topic, "route": "/on/" + topic})
		}
	}
	a.released = make(chan struct{})
	srv := &http.Server{Addr: "127.0.0.1:" + *port, Handler: a.handler()}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-stop
		fmt.Println("told to stop")
		a.release.Do(func() { close(a.released) })
		for *stubborn {
			<-stop
		}
		if err := srv.Shutdown(context.Background()); err != nil {
			fmt.Println(err)
		}
	}()
	fmt.Println("app listens")
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Println(err)
		os.Exit(1)
	}
	<-done
	fmt.Println("app stops")
}

// app is the state of the application.
type app struct {
	subscriptions []map[string]string
	deaf          bool
	sick          atomic.Bool
	refuses       atomic.Bool // events
	held          atomic.Int32
	release       sync.Once
	released      chan struct{} // closed by release
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("asked for subscriptions")
		if a.subscriptions == nil {
			http.NotFound(w, nil)
			return
		}
		answerJSON(w, a.subscriptions)
	})
	mux.HandleFunc("POST /on/{topic}", a.event)
	mux.HandleFunc("POST /job/{name}", func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("job %s: %s\n", r.PathValue("name"), body)
	})
	mux.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", os.Getenv("APP_ID"))
	})
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/call/{app}/{method...}", forward)
	mux.HandleFunc("/hold", a.hold)
	mux.HandleFunc("/release", func(http.ResponseWriter, *http.Request) { a.release.Do(func() { close(a.released) }) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if a.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/sick", func(http.ResponseWriter, *http.Request) { a.sick.Store(true); fmt.Println("app is sick") })
	mux.HandleFunc("/well", func(http.ResponseWriter, *http.Request) { fmt.Println("app is well"); a.sick.Store(false) })
	mux.HandleFunc("/refuse", func(http.ResponseWriter, *http.Request) { a.refuses.Store(true) })
	mux.HandleFunc("/accept", func(http.ResponseWriter, *http.Request) { a.refuses.Store(false) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.deaf && r.Method == http.MethodOptions {
			<-r.Context().Done()
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (a *app) event(w http.ResponseWriter, r *http.Request) {
	var e struct{ Data any }
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if a.refuses.Load() {
		http.Error(w, "out of order", http.StatusInternalServerError)
		return
	}
	fmt.Printf("event on %s: %v\n", r.PathValue("topic"), e.Data)
	answerJSON(w, map[string]string{"status": "SUCCESS"})
}

func (a *app) hold(w http.ResponseWriter, _ *http.Request) {
	fmt.Println("holding", a.held.Add(1))
	<-a.released
	fmt.Fprintln(w, "released")
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s from %q, token %q: %s\n", r.Method, r.URL, r.Header.Get("dapr-caller-app-id"), r.Header.Get("dapr-api-token"), body)
}

func forward(w http.ResponseWriter, r *http.Request) {
	url := "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/invoke/" + r.PathValue("app") + "/method/" + r.PathValue("method")
	resp, err := http.Get(url) //nolint:gosec,noctx // a test
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		fmt.Println(err)
	}
}

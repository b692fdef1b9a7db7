// Shop is a story of three services that know nothing but the API on
// localhost: orders takes orders, catalog knows prices, shipping sends parcels.
//
// Without arguments but --proa it plays the story: it starts the three services,
// each with its sidecar, places orders, and tells what happened. With the name
// of a service it is that service.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch name := service(); name {
	case "orders":
		err = runOrders(ctx)
	case "catalog":
		err = runCatalog(ctx)
	case "shipping":
		err = runShipping(ctx)
	default:
		err = play(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

// service returns the service that the program is to be.
func service() string {
	if len(os.Args) == 2 {
		return os.Args[1]
	}
	return ""
}

// options of the story.
type options struct {
	proa string            // the program to run sidecars with
	with map[string]string // service → command of another implementation
	home string            // where the engine keeps its data; a temporary folder when empty
	more string            // another folder of resources
}

func parse() options {
	o := options{with: map[string]string{}}
	flag.StringVar(&o.proa, "proa", "proa", "the proa program")
	flag.StringVar(&o.home, "home", "", "folder for the engine's data; a temporary one by default")
	flag.StringVar(&o.more, "resources", "", "another folder of resources, to put something else behind the same names")
	for _, name := range []string{"orders", "catalog", "shipping"} {
		flag.Func(name, "command that runs "+name+" instead of the Go form", func(text string) error {
			o.with[name] = text
			return nil
		})
	}
	flag.Parse()
	return o
}

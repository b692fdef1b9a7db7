package appchannel

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/proa-io/proa/fault"
)

// AppConfig is what an application says of itself at GET /dapr/config: which
// actors it hosts, and how.
type AppConfig struct {
	// Entities are the types of actors that it hosts.
	Entities []string
	// ActorSettings hold for all of them.
	ActorSettings
	// EntityConfigs hold for some types, instead.
	EntityConfigs []EntityConfig
}

// EntityConfig holds the settings of some types of actors.
type EntityConfig struct {
	Entities []string
	ActorSettings
}

// ActorSettings say how actors are hosted. What the application does not say
// is zero, or nil.
type ActorSettings struct {
	// IdleTimeout is after how long without a call an actor is deactivated.
	IdleTimeout time.Duration
	// DrainOngoingCallTimeout is how long a call under way may take when its
	// actor moves.
	DrainOngoingCallTimeout time.Duration
	// DrainRebalancedActors tells whether to wait for such calls at all.
	DrainRebalancedActors *bool
	// Reentrancy lets an actor be called within a call that it makes itself,
	// at most MaxStackDepth deep.
	Reentrancy    bool
	MaxStackDepth *int
}

type settingsJSON struct {
	Entities                []string `json:"entities"`
	IdleTimeout             string   `json:"actorIdleTimeout"`
	DrainOngoingCallTimeout string   `json:"drainOngoingCallTimeout"`
	DrainRebalancedActors   *bool    `json:"drainRebalancedActors"`
	Reentrancy              struct {
		Enabled       bool `json:"enabled"`
		MaxStackDepth *int `json:"maxStackDepth"`
	} `json:"reentrancy"`
}

func (s *settingsJSON) parse() (out ActorSettings, err error) {
	out = ActorSettings{
		DrainRebalancedActors: s.DrainRebalancedActors, Reentrancy: s.Reentrancy.Enabled, MaxStackDepth: s.Reentrancy.MaxStackDepth,
	}
	for _, d := range []struct {
		name, text string
		to         *time.Duration
	}{
		{"actorIdleTimeout", s.IdleTimeout, &out.IdleTimeout},
		{"drainOngoingCallTimeout", s.DrainOngoingCallTimeout, &out.DrainOngoingCallTimeout},
	} {
		if d.text == "" {
			continue
		}
		if *d.to, err = time.ParseDuration(d.text); err != nil || *d.to < 0 {
			return out, fmt.Errorf(`%s wants a duration such as "1h" or "30s", not %q`, d.name, d.text)
		}
	}
	return out, nil
}

// parseConfig reads the answer to GET /dapr/config.
func parseConfig(content []byte) (*AppConfig, error) {
	var doc struct {
		settingsJSON
		EntityConfigs []settingsJSON `json:"entitiesConfig"`
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		return nil, err
	}
	out := &AppConfig{Entities: doc.Entities}
	var err error
	if out.ActorSettings, err = doc.parse(); err != nil {
		return nil, err
	}
	for i := range doc.EntityConfigs {
		e := EntityConfig{Entities: doc.EntityConfigs[i].Entities}
		if e.ActorSettings, err = doc.EntityConfigs[i].parse(); err != nil {
			return nil, fmt.Errorf("entitiesConfig, entry %d: %w", i+1, err)
		}
		out.EntityConfigs = append(out.EntityConfigs, e)
	}
	return out, nil
}

const configPath = "/dapr/config"

func (a *httpApp) config(ctx context.Context) (out *AppConfig, err error) {
	err = ask(ctx, a.ask, func(attempt context.Context) (bool, error) {
		e, err := a.question(attempt, configPath)
		if err != nil {
			return false, err
		}
		defer e.end()
		if e.status != 200 || len(e.answer.Bytes()) == 0 {
			return true, nil
		}
		if e.cut {
			return true, fault.New(fault.ResourceExhausted, "the application's answer to GET %s is longer than %d bytes",
				configPath, a.opt.MaxAnswer)
		}
		if out, err = parseConfig(e.answer.Bytes()); err != nil {
			return true, fault.Wrap(err, fault.InvalidArgument, "the application's answer to GET %s cannot be used", configPath)
		}
		return true, nil
	})
	return out, err
}

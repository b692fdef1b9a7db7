package gcp

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/rest"
	"github.com/proa-io/proa/fault"
)

// SecretsConfig configures a secret store on Secret Manager.
type SecretsConfig struct {
	AccountConfig
}

// Secrets is a secret.Driver and a secret.Lister on Secret Manager. The hint
// version_id names another version than the latest one.
type Secrets struct {
	client *rest.Client
	tokens *rest.Tokens
	base   string // the URL of the project's secrets
}

// manager is where the service is.
const manager = "https://secretmanager.googleapis.com"

// OpenSecrets opens a secret store. It asks the service for nothing: the account
// may be for certain secrets only.
func OpenSecrets(ctx context.Context, cfg SecretsConfig, _ component.Env) (*Secrets, error) {
	return open(ctx, cfg, manager)
}

func open(ctx context.Context, cfg SecretsConfig, service string) (*Secrets, error) {
	from, err := findSource(cfg.AccountConfig, metadataHost())
	if err != nil {
		return nil, err
	}
	c := newClient(ctx)
	return &Secrets{c, newTokens(c, from), service + "/v1/projects/" + url.PathEscape(cfg.ProjectID) + "/secrets"}, nil
}

// Close implements io.Closer.
func (s *Secrets) Close() error {
	s.client.Close()
	return nil
}

func errNoSecret() error {
	return fault.New(fault.NotFound, "there is no such secret, or not in this version, or the version is disabled")
}

func (s *Secrets) read(ctx context.Context, address string) (rest.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return rest.Answer{}, errNoSecret()
	}
	if err := s.tokens.Sign(req); err != nil {
		return rest.Answer{}, err
	}
	a, err := s.client.Send(req)
	if a.Status == http.StatusUnauthorized {
		s.tokens.Forget(ctx)
	}
	return a, err
}

// Get implements secret.Driver.
func (s *Secrets) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/:\x00") {
		return nil, errNoSecret()
	}
	version := metadata["version_id"]
	if version == "" {
		version = "latest"
	}
	a, err := s.read(ctx, s.base+"/"+url.PathEscape(name)+"/versions/"+url.PathEscape(version)+":access")
	switch {
	case err != nil:
		return nil, err
	case a.Status == http.StatusNotFound, a.Status == http.StatusBadRequest: // of versions that are disabled, too
		return nil, errNoSecret()
	case a.Status != http.StatusOK:
		return nil, a.Err(place)
	}
	var out struct {
		Payload *struct{ Data []byte }
	}
	if err := json.Unmarshal(a.Body, &out); err != nil || out.Payload == nil {
		return nil, fault.New(fault.Unavailable, "the answer of the service is not what it should be")
	}
	return map[string]string{name: string(out.Payload.Data)}, nil
}

// List implements secret.Lister. Secrets without a version that can be read are
// left out.
func (s *Secrets) List(ctx context.Context, _ map[string]string, want func(name string) bool) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	query := url.Values{"pageSize": {"1000"}}
	for {
		a, err := s.read(ctx, s.base+"?"+query.Encode())
		if err != nil {
			return nil, err
		}
		if a.Status != http.StatusOK {
			return nil, a.Err(place)
		}
		var out struct {
			Secrets       []struct{ Name string }
			NextPageToken string
		}
		if err := json.Unmarshal(a.Body, &out); err != nil {
			return nil, fault.New(fault.Unavailable, "the answer of the service is not what it should be")
		}
		for _, e := range out.Secrets {
			name := path.Base(e.Name)
			if !want(name) {
				continue
			}
			values, err := s.Get(ctx, name, nil)
			if fault.Is(err, fault.NotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			all[name] = values
		}
		if out.NextPageToken == "" {
			return all, nil
		}
		query.Set("pageToken", out.NextPageToken)
	}
}

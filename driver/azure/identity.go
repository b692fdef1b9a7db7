package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/proa-io/proa/driver/internal/rest"
	"github.com/proa-io/proa/fault"
)

// identity gets tokens for one service. It is safe for concurrent use.
type identity struct {
	client   *rest.Client
	resource string // the service: "https://vault.azure.net"
	cfg      IdentityConfig
	// authority hands out tokens to clients, local to managed identities.
	authority, local string
	file             string // holds the token of a workload; "" for none

	turn  chan struct{} // holds one token: whoever takes it may use what follows
	token string
	until time.Time // when to get another one
}

// imds is where a virtual machine asks for tokens of its managed identity.
const imds = "http://169.254.169.254/metadata/identity/oauth2/token"

func newIdentity(c *rest.Client, cfg IdentityConfig, resource string) *identity {
	at, _ := cloudOf(cfg.AzureEnvironment)
	i := &identity{client: c, resource: resource, cfg: cfg, authority: at.authority, local: imds, turn: make(chan struct{}, 1)}
	if host := os.Getenv("AZURE_AUTHORITY_HOST"); host != "" {
		i.authority = strings.TrimRight(host, "/")
	}
	if !cfg.AzureClientSecret.IsSet() {
		if i.cfg.AzureTenantID == "" {
			i.cfg.AzureTenantID = os.Getenv("AZURE_TENANT_ID")
		}
		if i.cfg.AzureClientID == "" {
			i.cfg.AzureClientID = os.Getenv("AZURE_CLIENT_ID")
		}
		if i.file = os.Getenv("AZURE_FEDERATED_TOKEN_FILE"); i.file == "" {
			_ = i.cfg.AzureClientSecret.UnmarshalText([]byte(os.Getenv("AZURE_CLIENT_SECRET"))) // never fails
		}
	}
	i.turn <- struct{}{}
	return i
}

// sign adds a token to a request.
func (i *identity) sign(req *http.Request) error {
	ctx := req.Context()
	select {
	case <-i.turn:
	case <-ctx.Done():
		return rest.Classify(ctx, ctx.Err())
	}
	defer func() { i.turn <- struct{}{} }()
	if time.Now().After(i.until) {
		if err := i.renew(ctx); err != nil {
			return err
		}
	}
	req.Header.Set("Authorization", "Bearer "+i.token)
	return nil
}

// forget throws a token away that the service has refused.
func (i *identity) forget(ctx context.Context) {
	select {
	case <-i.turn:
		i.until = time.Time{}
		i.turn <- struct{}{}
	case <-ctx.Done():
	}
}

// early is how long before its end a token is given up.
const early = 5 * time.Minute

func (i *identity) renew(ctx context.Context) error {
	req, err := i.request(ctx)
	if err != nil {
		return err
	}
	a, err := i.client.Send(req)
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK {
		code := fault.Unauthenticated
		if a.Status == http.StatusTooManyRequests || a.Status >= 500 {
			code = fault.Unavailable
		}
		return fault.Wrap(fmt.Errorf("status %d", a.Status), code, "Microsoft Entra ID, or the machine, gives no token for this identity")
	}
	var out struct {
		Token   string      `json:"access_token"`
		Expires json.Number `json:"expires_in"` // seconds; in quotes from a machine
	}
	if err := json.Unmarshal(a.Body, &out); err != nil || out.Token == "" {
		return fault.New(fault.Unavailable, "the answer to a request for a token is not what it should be")
	}
	seconds, _ := out.Expires.Int64()
	life := time.Duration(seconds) * time.Second
	i.token, i.until = out.Token, time.Now().Add(life-min(early, life/2))
	return nil
}

// request asks for a token.
func (i *identity) request(ctx context.Context) (*http.Request, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {i.cfg.AzureClientID}, "scope": {i.resource + "/.default"}}
	switch {
	case i.cfg.AzureClientSecret.IsSet():
		form.Set("client_secret", i.cfg.AzureClientSecret.Reveal())
	case i.file != "":
		token, err := os.ReadFile(i.file)
		if err != nil {
			return nil, fault.New(fault.FailedPrecondition, "the token of this workload cannot be read: %v", err)
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", strings.TrimSpace(string(token)))
	default:
		return i.managed(ctx)
	}
	address := i.authority + "/" + url.PathEscape(i.cfg.AzureTenantID) + "/oauth2/v2.0/token"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fault.New(fault.FailedPrecondition, "the address that tokens come from is not one")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req, nil
}

// managed asks the machine for a token of its managed identity.
func (i *identity) managed(ctx context.Context) (*http.Request, error) {
	address, header, secret, version := i.local, "Metadata", "true", "2018-02-01"
	if host := os.Getenv("IDENTITY_ENDPOINT"); host != "" { // of App Service and Container Apps
		address, header, secret, version = host, "X-Identity-Header", os.Getenv("IDENTITY_HEADER"), "2019-08-01"
	}
	query := url.Values{"api-version": {version}, "resource": {i.resource}}
	if i.cfg.AzureClientID != "" {
		query.Set("client_id", i.cfg.AzureClientID)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?"+query.Encode(), nil)
	if err != nil {
		return nil, fault.New(fault.FailedPrecondition, "the address that the machine names for tokens is not one")
	}
	req.Header.Set(header, secret)
	return req, nil
}

package azure

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/proa-io/proa/driver/internal/rest"
	"github.com/proa-io/proa/fault"
)

// identity gets tokens for one service. It is safe for concurrent use.
type identity struct {
	*rest.Tokens
	resource string // the service: "https://vault.azure.net"
	cfg      IdentityConfig
	// authority hands out tokens to clients, local to managed identities.
	authority, local string
	file             string // holds the token of a workload; "" for none
}

// imds is where a virtual machine asks for tokens of its managed identity.
const imds = "http://169.254.169.254/metadata/identity/oauth2/token"

func newIdentity(c *rest.Client, cfg IdentityConfig, resource string) *identity {
	at, _ := cloudOf(cfg.AzureEnvironment)
	i := &identity{resource: resource, cfg: cfg, authority: at.authority, local: imds}
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
	i.Tokens = rest.NewTokens(c, i.request, "Microsoft Entra ID, or the machine, gives no token for this identity")
	return i
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

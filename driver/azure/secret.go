package azure

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

// VaultConfig configures a secret store on Key Vault.
type VaultConfig struct {
	IdentityConfig
	// VaultName is the name of the vault, "orders", or its URL.
	VaultName string `setting:"vaultName,required"`
}

// Validate reports settings that can never work.
func (c VaultConfig) Validate() error {
	if c.VaultName == "" {
		return component.Invalid("vaultName", "must not be empty")
	}
	if u, err := url.Parse(c.address()); err != nil || u.Host == "" || u.Path != "" {
		return component.Invalid("vaultName", `wants the name of a vault, or its URL "https://name.vault.azure.net"`)
	}
	return c.IdentityConfig.Validate()
}

// address returns the URL of the vault, without a slash at its end.
func (c VaultConfig) address() string {
	switch at, _ := cloudOf(c.AzureEnvironment); {
	case strings.Contains(c.VaultName, "://"):
		return strings.TrimRight(c.VaultName, "/")
	case strings.Contains(c.VaultName, "."):
		return "https://" + c.VaultName
	default:
		return "https://" + c.VaultName + "." + at.vaults
	}
}

// Vault is a secret.Driver and a secret.Lister on Key Vault, which does not tell
// upper and lower case apart. The hint version_id names another version than the
// current one.
type Vault struct {
	client   *rest.Client
	identity *identity
	base     string
}

// OpenVault opens a secret store. It asks the service for nothing: the identity
// may be for certain secrets only.
func OpenVault(ctx context.Context, cfg VaultConfig, _ component.Env) (*Vault, error) {
	c := newClient(ctx)
	at, _ := cloudOf(cfg.AzureEnvironment)
	return &Vault{client: c, identity: newIdentity(c, cfg.IdentityConfig, "https://"+at.vaults), base: cfg.address()}, nil
}

// Close implements io.Closer.
func (v *Vault) Close() error {
	v.client.Close()
	return nil
}

// vaultVersion is the version of the protocol.
const vaultVersion = "api-version=7.4"

func errNoSecret() error {
	return fault.New(fault.NotFound, "there is no such secret, or not in this version, or it is disabled")
}

func (v *Vault) read(ctx context.Context, address string) (rest.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return rest.Answer{}, errNoSecret()
	}
	if err := v.identity.Sign(req); err != nil {
		return rest.Answer{}, err
	}
	a, err := v.client.Send(req)
	if a.Status == http.StatusUnauthorized {
		v.identity.Forget(ctx)
	}
	return a, err
}

// Get implements secret.Driver.
func (v *Vault) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, errNoSecret()
	}
	address := v.base + "/secrets/" + url.PathEscape(name)
	if version := metadata["version_id"]; version != "" {
		address += "/" + url.PathEscape(version)
	}
	a, err := v.read(ctx, address+"?"+vaultVersion)
	switch {
	case err != nil:
		return nil, err
	case a.Status == http.StatusNotFound, a.Status == http.StatusBadRequest, a.Status == http.StatusForbidden && disabled(a.Body):
		return nil, errNoSecret()
	case a.Status != http.StatusOK:
		return nil, a.Err(place)
	}
	var out struct{ Value *string }
	if err := json.Unmarshal(a.Body, &out); err != nil || out.Value == nil {
		return nil, fault.New(fault.Unavailable, "the answer of the vault is not what it should be")
	}
	return map[string]string{name: *out.Value}, nil
}

// disabled reports whether an answer says that a secret is not to be handed out
// to anybody.
func disabled(body []byte) bool {
	var out struct {
		Error struct {
			Inner struct{ Code string } `json:"innererror"`
		}
	}
	return json.Unmarshal(body, &out) == nil && out.Error.Inner.Code == "SecretDisabled"
}

// List implements secret.Lister. Disabled secrets are left out.
func (v *Vault) List(ctx context.Context, _ map[string]string, want func(name string) bool) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for next := v.base + "/secrets?" + vaultVersion; next != ""; {
		if !strings.HasPrefix(next, v.base+"/") {
			return nil, fault.New(fault.Unavailable, "the vault sends on to another server")
		}
		a, err := v.read(ctx, next)
		if err != nil {
			return nil, err
		}
		if a.Status != http.StatusOK {
			return nil, a.Err(place)
		}
		var out struct {
			Value []struct {
				ID         string
				Attributes struct{ Enabled bool }
			}
			NextLink string
		}
		if err := json.Unmarshal(a.Body, &out); err != nil {
			return nil, fault.New(fault.Unavailable, "the answer of the vault is not what it should be")
		}
		for _, s := range out.Value {
			name := path.Base(s.ID)
			if !s.Attributes.Enabled || !want(name) {
				continue
			}
			values, err := v.Get(ctx, name, nil)
			if fault.Is(err, fault.NotFound) {
				continue // it has gone since
			}
			if err != nil {
				return nil, err
			}
			all[name] = values
		}
		next = out.NextLink
	}
	return all, nil
}

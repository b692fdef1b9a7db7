// Package gcp keeps promises of the building blocks on services of Google Cloud:
// secrets in Secret Manager.
//
// The package speaks the protocol of the service itself. It is tested on
// stand-ins in the tests, for Secret Manager, Google's token service and the
// metadata server, that answer as the documentation says. It has not been tried
// against the cloud.
package gcp

import (
	"context"
	"encoding/json"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/rest"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		secret.Spec(component.Description{
			Name: "gcp.secretmanager", Summary: "Reads secrets from Google Cloud Secret Manager. Tested on a stand-in; not tried against the cloud.",
		}, SecretsConfig{}, OpenSecrets),
	}
}

// AccountConfig is the key of a service account, as the fields of its JSON file
// say it. Without a private key the credentials come from the file that
// GOOGLE_APPLICATION_CREDENTIALS names, from what gcloud has left in the home
// directory, or from the metadata server of the machine, in this order. Of such
// files those of service accounts and of users are understood.
type AccountConfig struct {
	// Type is the kind of the key; "service_account" is the only one.
	Type string `setting:"type"`
	// ProjectID is the project of the secrets.
	ProjectID string `setting:"project_id,projectID,required"`
	// PrivateKeyID is the id of the private key.
	PrivateKeyID string `setting:"private_key_id,privateKeyID"`
	// PrivateKey is the private key, in PEM.
	PrivateKey component.Secret `setting:"private_key,privateKey"`
	// ClientEmail is the address of the service account.
	ClientEmail string `setting:"client_email,clientEmail"`
	// ClientID is the number of the service account. It has no effect.
	ClientID string `setting:"client_id,clientID"`
	// AuthURI has no effect: only people are sent there.
	AuthURI string `setting:"auth_uri,authURI"`
	// TokenURI is where tokens come from; Google's by default.
	TokenURI string `setting:"token_uri,tokenURI"`
	// AuthProviderCertURL has no effect.
	AuthProviderCertURL string `setting:"auth_provider_x509_cert_url,authProviderX509CertURL"`
	// ClientCertURL has no effect.
	ClientCertURL string `setting:"client_x509_cert_url,clientX509CertURL"`
}

// Validate reports settings that can never work.
func (c AccountConfig) Validate() error {
	switch {
	case c.ProjectID == "":
		return component.Invalid("project_id", "must not be empty")
	case c.Type != "" && c.Type != typeAccount:
		return component.Invalid("type", "wants %q, the only kind of key that settings can hold", typeAccount)
	case !c.PrivateKey.IsSet():
		return nil
	case c.ClientEmail == "":
		return component.Invalid("client_email", "goes together with private_key")
	}
	if _, err := c.key().source("", ""); err != nil {
		return component.Invalid("private_key", "is not a private key in PEM")
	}
	return nil
}

// key returns the settings as the file that they were copied from.
func (c AccountConfig) key() keyFile {
	return keyFile{Type: typeAccount, Email: c.ClientEmail, KeyID: c.PrivateKeyID, Key: c.PrivateKey.Reveal(), TokenURI: c.TokenURI}
}

// The kinds of files that hold credentials.
const (
	typeAccount = "service_account"
	typeUser    = "authorized_user"
)

// keyFile is a file that holds credentials.
type keyFile struct {
	Type         string `json:"type"`
	Email        string `json:"client_email"`
	KeyID        string `json:"private_key_id"`
	Key          string `json:"private_key"`
	TokenURI     string `json:"token_uri"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	RefreshToken string `json:"refresh_token"`
}

func parseKeyFile(text []byte) (k keyFile, err error) {
	err = json.Unmarshal(text, &k)
	return k, err
}

// place is what a service lacks that answers 404.
const place = "project"

// newClient returns a client for an answer with a secret, which has 64 KiB at
// most.
func newClient(ctx context.Context) *rest.Client {
	return rest.New(ctx, rest.Options{MaxBody: 4 << 20, MaxIdle: 8})
}

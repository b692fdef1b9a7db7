// Package azure keeps promises of the building blocks on services of Microsoft
// Azure: items and files in Blob Storage, messages in Queue Storage, and secrets
// in Key Vault.
//
// The package speaks the protocols of the services itself. Storage is
// tested on Azurite, Microsoft's emulator; Key Vault and Microsoft Entra ID, from
// which tokens come, on stand-ins in the tests that answer as the documentation
// says. None of it has been tried against the cloud: in particular not managed
// identities, workload identities, nor the clouds of China and the US
// government.
package azure

import (
	"context"
	"strings"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/rest"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	const store = "Keeps items as blobs in a container of Azure Blob Storage, in the format that Dapr's component of the same name and version reads and writes. "
	const untried = " Tested on Azurite, an emulator; not tried against the cloud."
	return []component.Spec{
		state.Spec(component.Description{
			Name:    "azure.blobstorage",
			Summary: store + "This version names a blob after the part of a key behind ||, so that applications overwrite each other's items: use version v2." + untried,
		}, StorageConfig{}, OpenStateV1),
		state.Spec(component.Description{
			Name: "azure.blobstorage", Version: "v2", Summary: store + "A blob has the whole key for its name." + untried,
		}, StorageConfig{}, OpenState),
		binding.OutputSpec(component.Description{
			Name: "azure.blobstorage", Summary: "Creates, reads, lists and removes blobs in a container of Azure Blob Storage." + untried,
		}, BlobsConfig{}, OpenBlobs),
		binding.InputSpec(component.Description{
			Name: "azure.storagequeues", Summary: "Sends messages to a queue of Azure Queue Storage, and takes them from it." + untried,
		}, queueDefaults(), OpenQueue),
		secret.Spec(component.Description{
			Name: "azure.keyvault", Summary: "Reads secrets from Azure Key Vault. Tested on a stand-in; not tried against the cloud.",
		}, VaultConfig{}, OpenVault),
	}
}

// IdentityConfig says who asks Microsoft Entra ID for tokens.
type IdentityConfig struct {
	// AzureEnvironment is the cloud: AzurePublicCloud, AzureChinaCloud or
	// AzureUSGovernmentCloud.
	AzureEnvironment string `setting:"azureEnvironment"`
	// AzureTenantID is the id of the tenant, of a client that has a secret.
	AzureTenantID string `setting:"azureTenantId,spnTenantId,tenantId"`
	// AzureClientID is the id of the client (application), or of the managed
	// identity when the machine has several. Without tenant and secret the
	// identity is what the environment says (AZURE_TENANT_ID, AZURE_CLIENT_ID,
	// and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE), or else the
	// managed identity of the machine.
	AzureClientID string `setting:"azureClientId,spnClientId,clientId"`
	// AzureClientSecret is the secret of the client.
	AzureClientSecret component.Secret `setting:"azureClientSecret,spnClientSecret,clientSecret"`
	// AzureCertificate is not supported: use a secret or a managed identity.
	AzureCertificate component.Secret `setting:"azureCertificate,spnCertificate"`
	// AzureCertificateFile is not supported, like azureCertificate.
	AzureCertificateFile string `setting:"azureCertificateFile,spnCertificateFile"`
}

// Validate reports settings that can never work.
func (c IdentityConfig) Validate() error {
	if _, ok := cloudOf(c.AzureEnvironment); !ok {
		return component.Invalid("azureEnvironment", "wants AzurePublicCloud, AzureChinaCloud or AzureUSGovernmentCloud")
	}
	const certificate = "client certificates are not supported: use azureClientSecret, or a managed identity"
	if c.AzureCertificate.IsSet() {
		return component.Invalid("azureCertificate", "%s", certificate)
	}
	if c.AzureCertificateFile != "" {
		return component.Invalid("azureCertificateFile", "%s", certificate)
	}
	if c.AzureClientSecret.IsSet() && (c.AzureTenantID == "" || c.AzureClientID == "") {
		return component.Invalid("azureClientSecret", "goes together with azureTenantId and azureClientId")
	}
	return nil
}

// cloud is where the services of one of Microsoft's clouds are.
type cloud struct {
	authority string // of tokens
	vaults    string // the domain of key vaults
	storage   string // the domain of storage accounts
}

// cloudOf returns a cloud by its name, in any case.
func cloudOf(name string) (cloud, bool) {
	switch strings.ToLower(name) {
	case "", "azurepubliccloud", "azurepublic":
		return cloud{"https://login.microsoftonline.com", "vault.azure.net", "core.windows.net"}, true
	case "azurechinacloud", "azurechina":
		return cloud{"https://login.chinacloudapi.cn", "vault.azure.cn", "core.chinacloudapi.cn"}, true
	case "azureusgovernmentcloud", "azureusgovernment":
		return cloud{"https://login.microsoftonline.us", "vault.usgovcloudapi.net", "core.usgovcloudapi.net"}, true
	}
	return cloud{}, false
}

// place is what a service lacks that answers 404.
const place = "container, queue or vault"

// newClient returns a client for an answer as large as a blob that is written at
// once may be in the emulator and the oldest versions of the service.
func newClient(ctx context.Context) *rest.Client {
	return rest.New(ctx, rest.Options{MaxBody: 256 << 20, MaxIdle: 32})
}

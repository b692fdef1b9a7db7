// Package aws keeps promises of the building blocks on services of Amazon Web
// Services: items in DynamoDB, messages in queues of SQS, notifications of SNS,
// and secrets in Secrets Manager and the Parameter Store.
//
// The package speaks the protocols of the services, and has credentials and
// signatures from Amazon's SDK. It is tested on moto, a stand-in that runs on
// one machine. None of it has been tried against the cloud: not IAM's
// permissions, throttling, temporary credentials, nor any limit that moto does
// not know.
package aws

import (
	"net/url"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	const untried = " Tested on moto, a stand-in; not tried against the cloud."
	return []component.Spec{
		state.Spec(component.Description{
			Name: "aws.dynamodb", Aliases: []string{"dynamodb"},
			Summary: "Keeps items in a table of DynamoDB, in the format that Dapr's component of the same name reads and writes." + untried,
		}, StateConfig{PartitionKey: defaultPartitionKey}, OpenState),
		binding.InputSpec(component.Description{
			Name:    "aws.sqs",
			Summary: "Sends messages to a queue of SQS, and takes them from it." + untried,
		}, QueueConfig{}, OpenQueue),
		binding.OutputSpec(component.Description{
			Name:    "aws.sns",
			Summary: "Publishes notifications to a topic of SNS." + untried,
		}, TopicConfig{}, OpenTopic),
		secret.Spec(component.Description{
			Name: "aws.secretmanager", Aliases: []string{"aws.secretsmanager"},
			Summary: "Reads secrets from Secrets Manager." + untried,
		}, SecretsConfig{}, OpenSecrets),
		secret.Spec(component.Description{
			Name:    "aws.parameterstore",
			Summary: "Reads secrets from the Parameter Store of Systems Manager." + untried,
		}, ParametersConfig{}, OpenParameters),
	}
}

// Config says where a service is and who calls it.
type Config struct {
	// Region is the region of the service, "eu-central-1". By default it is
	// what the environment or Amazon's configuration files say.
	Region string `setting:"region"`
	// Endpoint is the URL of a service that stands in for Amazon's:
	// "http://localhost:4566".
	Endpoint string `setting:"endpoint"`
	// AccessKey is the id of an access key. Without one the credentials come
	// from where Amazon's SDK looks for them: the environment, configuration
	// files, a web identity, the role of the container or of the machine.
	AccessKey component.Secret `setting:"accessKey"`
	// SecretKey is the secret that belongs to accessKey.
	SecretKey component.Secret `setting:"secretKey"`
	// SessionToken belongs to temporary credentials.
	SessionToken component.Secret `setting:"sessionToken"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if c.AccessKey.IsSet() != c.SecretKey.IsSet() {
		return component.Invalid("secretKey", "goes together with accessKey: set both or neither")
	}
	if c.SessionToken.IsSet() && !c.AccessKey.IsSet() {
		return component.Invalid("sessionToken", "goes together with accessKey and secretKey")
	}
	if c.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return component.Invalid("endpoint", `wants a URL such as "http://localhost:4566"`)
	}
	return nil
}

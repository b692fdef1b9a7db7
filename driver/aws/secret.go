package aws

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// The hints that a read may have.
const (
	hintVersion = "version_id"
	hintStage   = "version_stage"
)

// SecretsConfig configures a secret store on Secrets Manager.
type SecretsConfig struct {
	Config
	// MultipleKeyValuesPerSecret reads a secret that is a JSON object of
	// strings as several values, under their names.
	MultipleKeyValuesPerSecret bool `setting:"multipleKeyValuesPerSecret"`
}

// Secrets is a secret.Driver and a secret.Lister on Secrets Manager. The hints
// version_id and version_stage name another version than the current one.
type Secrets struct {
	client *client
	many   bool
}

// OpenSecrets opens a secret store. It asks the service for nothing: the
// credentials may be for certain secrets only.
func OpenSecrets(ctx context.Context, cfg SecretsConfig, _ component.Env) (*Secrets, error) {
	c, err := newClient(ctx, service{"secretsmanager", "secretsmanager.", "application/x-amz-json-1.1"}, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Secrets{c, cfg.MultipleKeyValuesPerSecret}, nil
}

// Close implements io.Closer.
func (s *Secrets) Close() error {
	s.client.close()
	return nil
}

func errNoSecret() error {
	return fault.New(fault.NotFound, "there is no such secret, or not in this version")
}

// missing turns the answers to a name that no secret has, or can have, into
// NotFound.
func missing(err error) error {
	if is(err, "ResourceNotFoundException", "ParameterNotFound", "ParameterVersionNotFound", "ValidationException", "InvalidParameterException",
		"InvalidRequestException") {
		return errNoSecret()
	}
	return err
}

// Get implements secret.Driver.
func (s *Secrets) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return nil, errNoSecret()
	}
	ask := map[string]string{"SecretId": name}
	if v := metadata[hintVersion]; v != "" {
		ask["VersionId"] = v
	}
	if v := metadata[hintStage]; v != "" {
		ask["VersionStage"] = v
	}
	var out struct {
		Name         string
		SecretString *string
		SecretBinary []byte
	}
	if err := s.client.call(ctx, "GetSecretValue", ask, &out); err != nil {
		return nil, missing(err)
	}
	text := string(out.SecretBinary)
	if out.SecretString != nil {
		text = *out.SecretString
	}
	if s.many {
		values := map[string]string{}
		if json.Unmarshal([]byte(text), &values) == nil && len(values) > 0 {
			return values, nil
		}
	}
	return map[string]string{out.Name: text}, nil
}

// List implements secret.Lister.
func (s *Secrets) List(ctx context.Context, _ map[string]string, want func(name string) bool) (map[string]map[string]string, error) {
	var names []string
	ask := map[string]any{"MaxResults": 100}
	for {
		var out struct {
			SecretList []struct{ Name string }
			NextToken  string
		}
		if err := s.client.call(ctx, "ListSecrets", ask, &out); err != nil {
			return nil, err
		}
		for _, e := range out.SecretList {
			names = append(names, e.Name)
		}
		if out.NextToken == "" {
			return collect(ctx, names, want, s.Get)
		}
		ask["NextToken"] = out.NextToken
	}
}

// collect reads the secrets that are wanted. One that has gone since is left
// out.
func collect(ctx context.Context, names []string, want func(string) bool,
	get func(context.Context, string, map[string]string) (map[string]string, error)) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for _, name := range names {
		if !want(name) {
			continue
		}
		values, err := get(ctx, name, nil)
		switch {
		case fault.Is(err, fault.NotFound):
		case err != nil:
			return nil, err
		default:
			all[name] = values
		}
	}
	return all, nil
}

// ParametersConfig configures a secret store on the Parameter Store.
type ParametersConfig struct {
	Config
	// Prefix is put before the name of a secret, and taken off those that are
	// listed: "/myapp/".
	Prefix string `setting:"prefix"`
}

// Parameters is a secret.Driver and a secret.Lister on the Parameter Store. The
// hint version_id is the number of a version, or a label.
type Parameters struct {
	client *client
	prefix string
}

// OpenParameters opens a secret store. It asks the service for nothing: the
// credentials may be for certain parameters only.
func OpenParameters(ctx context.Context, cfg ParametersConfig, _ component.Env) (*Parameters, error) {
	c, err := newClient(ctx, service{"ssm", "AmazonSSM.", "application/x-amz-json-1.1"}, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Parameters{c, cfg.Prefix}, nil
}

// Close implements io.Closer.
func (p *Parameters) Close() error {
	p.client.close()
	return nil
}

// Get implements secret.Driver.
func (p *Parameters) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	// A colon would begin the version.
	if name == "" || strings.ContainsAny(name, ":\x00") {
		return nil, errNoSecret()
	}
	ask := p.prefix + name
	if v := metadata[hintVersion]; v != "" {
		ask += ":" + v
	}
	var out struct {
		Parameter struct{ Name, Value string }
	}
	if err := p.client.call(ctx, "GetParameter", map[string]any{"Name": ask, "WithDecryption": true}, &out); err != nil {
		return nil, missing(err)
	}
	if out.Parameter.Name != p.prefix+name {
		return nil, errNoSecret() // a name that the service has taken for another
	}
	return map[string]string{name: out.Parameter.Value}, nil
}

// List implements secret.Lister.
func (p *Parameters) List(ctx context.Context, _ map[string]string, want func(name string) bool) (map[string]map[string]string, error) {
	var names []string
	ask := map[string]any{"MaxResults": 50}
	if p.prefix != "" {
		ask["ParameterFilters"] = []map[string]any{{"Key": "Name", "Option": "BeginsWith", "Values": []string{p.prefix}}}
	}
	for {
		var out struct {
			Parameters []struct{ Name string }
			NextToken  string
		}
		if err := p.client.call(ctx, "DescribeParameters", ask, &out); err != nil {
			return nil, err
		}
		for _, e := range out.Parameters {
			if name, ok := strings.CutPrefix(e.Name, p.prefix); ok {
				names = append(names, name)
			}
		}
		if out.NextToken == "" {
			return collect(ctx, names, want, p.Get)
		}
		ask["NextToken"] = out.NextToken
	}
}

// Package openai talks to language models over the chat completions protocol of
// OpenAI, which most providers speak: OpenAI itself, Azure, Ollama, DeepSeek,
// Mistral, Hugging Face, Google and Anthropic.
package openai

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// A provider is a service that speaks the protocol.
type provider struct {
	name    string
	summary string
	// endpoint and model are the defaults.
	endpoint, model string
	// keyless: a key is not needed.
	keyless bool
	// maxTokensField is what the bound of an answer is called; the providers
	// differ.
	maxTokensField string
	// schema: the provider takes a JSON schema for the answer.
	schema bool
}

func providers() []provider {
	return []provider{
		{"openai", "Talks to the models of OpenAI or Azure OpenAI, or of any service with the same API.",
			"https://api.openai.com/v1", "gpt-5-nano", false, "max_completion_tokens", true},
		{"ollama", "Talks to the models of a local Ollama.",
			"http://localhost:11434/v1", "llama3.2:latest", true, "max_tokens", true},
		{"deepseek", "Talks to the models of DeepSeek.",
			"https://api.deepseek.com", "deepseek-chat", false, "max_tokens", false},
		{"mistral", "Talks to the models of Mistral AI.",
			"https://api.mistral.ai/v1", "open-mistral-7b", false, "max_tokens", true},
		{"huggingface", "Talks to the models that Hugging Face serves.",
			"https://router.huggingface.co/v1", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", false, "max_tokens", true},
		{"googleai", "Talks to the Gemini models of Google.",
			"https://generativelanguage.googleapis.com/v1beta/openai", "gemini-2.5-flash-lite", false, "max_tokens", true},
		{"anthropic", "Talks to the Claude models of Anthropic.",
			"https://api.anthropic.com/v1", "claude-sonnet-4-20250514", false, "max_tokens", false},
	}
}

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	var out []component.Spec
	for _, p := range providers() {
		d := component.Description{Name: p.name, Summary: p.summary}
		switch {
		case p.name == "openai":
			out = append(out, conversation.Spec(d, Config{Model: p.model, Endpoint: p.endpoint}, opener[Config](p)))
		case p.keyless:
			out = append(out, conversation.Spec(d, LocalConfig{Model: p.model, Endpoint: p.endpoint}, opener[LocalConfig](p)))
		default:
			out = append(out, conversation.Spec(d, HostedConfig{Model: p.model, Endpoint: p.endpoint}, opener[HostedConfig](p)))
		}
	}
	return out
}

// Config configures the models of OpenAI, of Azure OpenAI, or of a service with
// the same API.
type Config struct {
	// Key is the API key.
	Key component.Secret `setting:"key,required"`
	// Model is the name of the model; with Azure, that of the deployment.
	Model string `setting:"model"`
	// Endpoint is the base URL of the API, without "/chat/completions". With
	// Azure it is that of the resource, "https://name.openai.azure.com".
	Endpoint string `setting:"endpoint"`
	// APIType is "openai" or "azure".
	APIType string `setting:"apiType"`
	// APIVersion is the version of the API that Azure is asked for.
	APIVersion string `setting:"apiVersion"`
	// MaxTokens bounds an answer, in tokens; 0 for what the provider does by
	// itself.
	MaxTokens int `setting:"maxTokens"`
	// UseLegacyMaxTokensField sends MaxTokens as "max_tokens", for services that
	// do not know "max_completion_tokens".
	UseLegacyMaxTokensField bool `setting:"useLegacyMaxTokensField"`
}

// HostedConfig configures the models of a provider in the cloud.
type HostedConfig struct {
	// Key is the API key.
	Key component.Secret `setting:"key,required"`
	// Model is the name of the model.
	Model string `setting:"model"`
	// Endpoint is the base URL of the API, without "/chat/completions".
	Endpoint string `setting:"endpoint"`
	// MaxTokens bounds an answer, in tokens; 0 for what the provider does by
	// itself.
	MaxTokens int `setting:"maxTokens"`
}

// LocalConfig configures the models of a server of one's own.
type LocalConfig struct {
	// Key is the API key, if the server wants one.
	Key component.Secret `setting:"key"`
	// Model is the name of the model. The server must have it.
	Model string `setting:"model"`
	// Endpoint is the base URL of the API, without "/chat/completions".
	Endpoint string `setting:"endpoint"`
	// MaxTokens bounds an answer, in tokens; 0 for what the server does by
	// itself.
	MaxTokens int `setting:"maxTokens"`
}

// settings are what the configurations come to.
type settings struct {
	key             component.Secret
	model, endpoint string
	azure           bool
	version         string
	maxTokens       int
	legacy          bool
}

func (c Config) settings() settings {
	return settings{c.Key, c.Model, c.Endpoint, strings.EqualFold(c.APIType, "azure"), c.APIVersion, c.MaxTokens, c.UseLegacyMaxTokensField}
}

func (c HostedConfig) settings() settings {
	return settings{key: c.Key, model: c.Model, endpoint: c.Endpoint, maxTokens: c.MaxTokens}
}

func (c LocalConfig) settings() settings {
	return settings{key: c.Key, model: c.Model, endpoint: c.Endpoint, maxTokens: c.MaxTokens}
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	azure := strings.EqualFold(c.APIType, "azure")
	switch {
	case c.APIType != "" && !azure && !strings.EqualFold(c.APIType, "openai"):
		return component.Invalid("apiType", `wants "openai" or "azure"`)
	case azure && c.Endpoint == providers()[0].endpoint:
		return component.Invalid("endpoint", `wants the URL of the Azure resource, as "https://name.openai.azure.com"`)
	case azure && c.APIVersion == "":
		return component.Invalid("apiVersion", `wants the version of the API of Azure, as "2025-01-01-preview"`)
	}
	return c.settings().validate()
}

// Validate reports settings that can never work.
func (c HostedConfig) Validate() error { return c.settings().validate() }

// Validate reports settings that can never work.
func (c LocalConfig) Validate() error { return c.settings().validate() }

func (s settings) validate() error {
	u, err := url.Parse(s.endpoint)
	switch {
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https":
		return component.Invalid("endpoint", `wants a URL such as "https://host/v1"`)
	case s.model == "":
		return component.Invalid("model", "wants the name of a model")
	case s.maxTokens < 0:
		return component.Invalid("maxTokens", "must not be negative")
	}
	return nil
}

// Model is a conversation.Driver and a conversation.Streamer.
type Model struct {
	provider provider
	settings settings
	url      string
	client   *http.Client
}

// opener returns the function that opens a model of p.
func opener[C interface{ settings() settings }](p provider) func(context.Context, C, component.Env) (*Model, error) {
	return func(_ context.Context, cfg C, _ component.Env) (*Model, error) { return open(p, cfg.settings()) }
}

// headerTimeout bounds the wait for the first byte of an answer beyond the
// caller's own bound: models think for minutes, not for hours.
const headerTimeout = 15 * time.Minute

func open(p provider, s settings) (*Model, error) {
	base := strings.TrimSuffix(s.endpoint, "/")
	m := &Model{provider: p, settings: s, url: base + "/chat/completions"}
	if s.azure {
		m.url = base + "/openai/deployments/" + url.PathEscape(s.model) + "/chat/completions?api-version=" + url.QueryEscape(s.version)
	}
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, fault.New(fault.Internal, "the default HTTP transport is another one")
	}
	t = t.Clone()
	t.ResponseHeaderTimeout = headerTimeout
	m.client = &http.Client{Transport: t}
	return m, nil
}

// Close implements io.Closer.
func (m *Model) Close() error {
	m.client.CloseIdleConnections()
	return nil
}

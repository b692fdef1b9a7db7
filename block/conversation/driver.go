package conversation

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every component of this block.
const Block = "conversation"

// Driver is what a language model behind an API implements.
//
// A driver does I/O and names its errors with fault codes, nothing else: the
// cache, the masking of personal data and the policies are Model's. No error
// text may hold a key. Methods are safe for concurrent use and return soon after
// ctx ends.
type Driver interface {
	// Converse answers one turn. A request that the model refuses as such is
	// fault.InvalidArgument, too many of them fault.ResourceExhausted, a key
	// that it does not know fault.PermissionDenied.
	Converse(ctx context.Context, r *Request) (*Reply, error)

	io.Closer
}

// Streamer is implemented by drivers that can hand over an answer while it is
// being made.
type Streamer interface {
	// Stream is Converse, and calls emit with each piece of the answer's text
	// as it comes. What it returns is the whole answer, as Converse does. An
	// error of emit ends the call and is returned.
	Stream(ctx context.Context, r *Request, emit func(Delta) error) (*Reply, error)
}

// Role is who says something.
type Role string

// The roles.
const (
	Developer Role = "developer"
	System    Role = "system"
	User      Role = "user"
	Assistant Role = "assistant"
	ToolRole  Role = "tool"
)

// Message is one message of a conversation.
type Message struct {
	Role Role
	// Name tells participants of the same role apart; for ToolRole it is the
	// name of the tool. May be empty.
	Name string
	// Content are the texts of the message.
	Content []string
	// ToolCalls are what the assistant asked for.
	ToolCalls []ToolCall
	// ToolCallID is the call that a message of a tool answers.
	ToolCallID string
}

// ToolCall asks for the use of a tool.
type ToolCall struct {
	ID   string
	Name string
	// Arguments are JSON, as the model wrote it; it may not be valid.
	Arguments string
}

// Tool is something that the model may ask the application to use.
type Tool struct {
	Name        string
	Description string
	// Parameters is the JSON schema of the arguments; empty for none.
	Parameters json.RawMessage
}

// The tool choices that are not the name of a tool.
const (
	ChooseAuto     = "auto"
	ChooseNone     = "none"
	ChooseRequired = "required"
)

// Request is one turn.
type Request struct {
	Messages []Message
	Tools    []Tool
	// ToolChoice is one of the constants, or the name of a tool. It is empty
	// when there are no tools.
	ToolChoice string
	// ResponseFormat is the JSON schema that the answer must satisfy; empty for
	// free text.
	ResponseFormat json.RawMessage
	// Temperature is how freely the model chooses its words; nil for what it
	// does by itself.
	Temperature *float64
	// Parameters are further settings of the model, as values that
	// encoding/json can write.
	Parameters map[string]any
	// Metadata are hints to the component. Unknown ones are ignored.
	Metadata map[string]string
	// PromptCacheRetention is how long the provider may keep what it worked
	// out about the prompt; 0 for what it does by itself.
	PromptCacheRetention time.Duration
}

// Reply is the answer to a turn.
type Reply struct {
	// Outputs are the answers; most models give one.
	Outputs []Output
	// Model is the name of the model that answered; may be empty.
	Model string
	// Usage is what it took; nil when the model does not say.
	Usage *Usage
}

// Output is one answer, of which there may be alternatives.
type Output struct{ Choices []Choice }

// The finish reasons that drivers use.
const (
	FinishStop      = "stop"
	FinishLength    = "length"
	FinishToolCalls = "tool_calls"
	FinishFilter    = "content_filter"
)

// Choice is one alternative of an answer.
type Choice struct {
	// FinishReason is why the model stopped: one of the constants or a word of
	// the model's own.
	FinishReason string
	Index        int64
	Content      string
	ToolCalls    []ToolCall
}

// Usage counts tokens.
type Usage struct {
	PromptTokens, CompletionTokens, TotalTokens uint64
	// Details of CompletionTokens.
	AcceptedPrediction, CompletionAudio, Reasoning, RejectedPrediction uint64
	// Details of PromptTokens.
	PromptAudio, Cached uint64
}

// Delta is a piece of an answer.
type Delta struct {
	// Index is the Choice's that Content belongs to.
	Index   int64
	Content string
}

// Spec describes a driver of type "conversation.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, Config{}, []component.Capability{
		component.Can[Streamer]("STREAM"),
	}, open)
}

// Config are the settings that every component of the block has.
type Config struct {
	// CacheTTL is for how long the answer to a request is given again to the
	// very same request, without asking the model; 0 for never. The cache is in
	// the memory of this process.
	CacheTTL component.Duration `setting:"cacheTTL"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if c.CacheTTL < 0 {
		return component.Invalid("cacheTTL", "must not be negative")
	}
	return nil
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
)

func dlqCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "dlq", Short: "Show dead letters and send them back",
		Long: `Shows the messages that could not be processed and were moved to a dead letter
topic, and sends them back to where they came from, through a running sidecar.`,
	})
	cmd.AddCommand(dlqList(), dlqRedrive())
	return cmd
}

// dlqFlags say which dead letter topics a command is about.
type dlqFlags struct {
	clientFlags
	broker, topic string
}

func (f *dlqFlags) register(cmd *cobra.Command) {
	f.clientFlags.register(cmd, "application whose sidecar is asked; the only one running by default")
	cmd.Flags().StringVarP(&f.broker, "pubsub", "p", "", "pub/sub component")
	cmd.Flags().StringVarP(&f.topic, "topic", "t", "", "dead letter topic")
}

// call calls a method of proa.v1.DeadLetters.
func (f *dlqFlags) call(cmd *cobra.Command, method string, in, out proto.Message) error {
	base, err := f.base(f.appID)
	if err != nil {
		return err
	}
	body, err := protojson.Marshal(in)
	if err != nil {
		return err
	}
	_, answer, err := f.send(cmd, "POST", base+"/proa.v1.DeadLetters/"+method, body, "application/json")
	if err != nil {
		return err
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(answer, out)
}

// topics returns the dead letter topics that are meant: the one of the flags,
// or those of the application's subscriptions.
func (f *dlqFlags) topics(cmd *cobra.Command) ([]deadLetterTopic, error) {
	if f.topic != "" {
		broker := f.broker
		if broker == "" {
			broker = "pubsub"
		}
		return []deadLetterTopic{{broker, f.topic}}, nil
	}
	base, err := f.base(f.appID)
	if err != nil {
		return nil, err
	}
	_, answer, err := f.send(cmd, "GET", base+"/v1.0/metadata", nil, "")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Subscriptions []struct {
			PubSub     string `json:"pubsubname"`
			DeadLetter string `json:"deadLetterTopic"`
		} `json:"subscriptions"`
	}
	if err := json.Unmarshal(answer, &doc); err != nil {
		return nil, fmt.Errorf("the sidecar's metadata cannot be read: %w", err)
	}
	seen := map[deadLetterTopic]bool{}
	var out []deadLetterTopic
	for _, s := range doc.Subscriptions {
		t := deadLetterTopic{s.PubSub, s.DeadLetter}
		if t.topic != "" && !seen[t] && (f.broker == "" || f.broker == t.broker) {
			seen[t] = true
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no subscription of the application has a dead letter topic; name one with --topic")
	}
	return out, nil
}

type deadLetterTopic struct{ broker, topic string }

func dlqList() *cobra.Command {
	var f dlqFlags
	var limit int32
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters, oldest first, without consuming them", Args: cobra.NoArgs,
		Long: `Lists the messages in a dead letter topic, or in all that the subscriptions of the
application have. It shows what the broker keeps, also what somebody has consumed
from the dead letter topic meanwhile.`,
		Example: `  proa dlq list
  proa dlq list --pubsub kafka --topic orders-dead --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			topics, err := f.topics(cmd)
			if err != nil {
				return err
			}
			out := &letterTable{cmd: cmd, json: asJSON, many: len(topics) > 1}
			for _, t := range topics {
				if err := f.list(cmd, t, limit, out); err != nil {
					return err
				}
			}
			return out.flush()
		},
	}
	f.register(cmd)
	cmd.Flags().Int32VarP(&limit, "limit", "n", 100, "show at most so many of a topic; 0 for all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per message, with its data")
	return cmd
}

func (f *dlqFlags) list(cmd *cobra.Command, t deadLetterTopic, limit int32, out *letterTable) error {
	in := &proav1.DeadLettersListRequest{PubsubName: t.broker, Topic: t.topic, Data: out.json}
	for shown := int32(0); ; {
		in.PageSize = 1000
		if limit > 0 {
			in.PageSize = min(in.GetPageSize(), limit-shown)
		}
		page := &proav1.DeadLettersListResponse{}
		if err := f.call(cmd, "List", in, page); err != nil {
			return err
		}
		for _, l := range page.GetLetters() {
			if err := out.add(t, l); err != nil {
				return err
			}
		}
		shown += int32(len(page.GetLetters())) //nolint:gosec // at most a page
		in.PageToken = page.GetNextPageToken()
		if in.GetPageToken() == "" || limit > 0 && shown >= limit {
			out.more = out.more || in.GetPageToken() != ""
			return nil
		}
	}
}

// letterTable prints dead letters.
type letterTable struct {
	cmd        *cobra.Command
	json, many bool
	more       bool
	w          *tabwriter.Writer
}

func (t *letterTable) add(from deadLetterTopic, l *proav1.DeadLetter) error {
	if t.json {
		line, err := protojson.Marshal(l)
		if err != nil {
			return err
		}
		return show(t.cmd, line)
	}
	if t.w == nil {
		t.w = tabwriter.NewWriter(t.cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
		if t.many {
			fmt.Fprint(t.w, "DEAD LETTER TOPIC\t")
		}
		fmt.Fprintln(t.w, "ID\tTIME\tATTEMPTS\tTOPIC\tCAUSE")
	}
	if t.many {
		fmt.Fprintf(t.w, "%s/%s\t", from.broker, from.topic)
	}
	id, when := l.GetId(), "-"
	if id == "" {
		id = l.GetMessageId()
	}
	if l.GetLastTime() != nil {
		when = l.GetLastTime().AsTime().Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(t.w, "%s\t%s\t%d\t%s\t%s\n", id, when, l.GetAttempts(), dash(l.GetTopic()), dash(oneLine(l.GetCause())))
	return err
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// oneLine shortens a text to what fits into a line of a table.
func oneLine(text string) string {
	const most = 120
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "..."
	}
	return text
}

func (t *letterTable) flush() error {
	if t.w != nil {
		if err := t.w.Flush(); err != nil {
			return err
		}
	}
	if t.more && !t.json {
		fmt.Fprintln(t.cmd.ErrOrStderr(), "there are more; --limit 0 shows all")
	}
	return nil
}

func dlqRedrive() *cobra.Command {
	var f dlqFlags
	var all bool
	var limit int32
	var to string
	cmd := &cobra.Command{
		Use: "redrive [ID...]", Short: "Send dead letters back to the topics they came from",
		Long: `Publishes dead letters to the topics they came from, as they were, and removes
them from the dead letter topic. A message is removed only when the broker has it:
if something breaks off it is in both topics, never in none.

An ID is that of the event or, where there is none, that of the broker; see
"proa dlq list".`,
		Example: `  proa dlq redrive --topic orders-dead 5929aaac-a5e2-4ca1-859c-edfe73f11565
  proa dlq redrive --topic orders-dead --all
  proa dlq redrive --topic orders-dead --all --limit 10 --to orders-retry`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("say which messages: their ids, or --all")
			}
			topics, err := f.topics(cmd)
			if err != nil {
				return err
			}
			if len(topics) > 1 {
				return errors.New("the application has several dead letter topics; name one with --topic")
			}
			in := &proav1.DeadLettersRedriveRequest{PubsubName: topics[0].broker, Topic: topics[0].topic, Ids: args, ToTopic: to}
			return f.redrive(cmd, in, limit)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all messages of the topic")
	cmd.Flags().Int32VarP(&limit, "limit", "n", 0, "send back at most so many, oldest first; 0 for no bound")
	cmd.Flags().StringVar(&to, "to", "", "topic they go to, in place of the ones they came from")
	return cmd
}

func (f *dlqFlags) redrive(cmd *cobra.Command, in *proav1.DeadLettersRedriveRequest, limit int32) error {
	done, failed := int32(0), map[string]bool{}
	for {
		if limit > 0 {
			in.Limit = min(1000, limit-done)
		}
		out := &proav1.DeadLettersRedriveResponse{}
		if err := f.call(cmd, "Redrive", in, out); err != nil {
			return err
		}
		for _, l := range out.GetFailed() {
			if !failed[l.GetId()] {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", l.GetId(), l.GetError())
			}
			failed[l.GetId()] = true
		}
		done += int32(len(out.GetRedriven())) //nolint:gosec // at most 1,000
		if !out.GetMore() || len(out.GetRedriven()) == 0 || limit > 0 && done >= limit {
			break
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d sent back from %s on %s\n", done, in.GetTopic(), in.GetPubsubName())
	if n := len(failed); n > 0 {
		return fmt.Errorf("%d could not be sent back and stay there", n)
	}
	return nil
}

package resource

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Digest is equal for two documents that say the same of what they configure,
// wherever they stand: order of fields, comments, labels and scopes do not
// count. It is empty for what was not read from a file.
func (h *header) Digest() string { return h.digest }

// digestOf returns the digest of a document that has been decoded without a
// problem, and so is bounded.
func digestOf(n *yaml.Node) string {
	sum := sha256.New()
	for _, f := range sortedFields(n) {
		switch f.name {
		case "metadata", "scopes", "status": // the name is known; the others are not content
		default:
			writeText(sum, f.name)
			digestNode(sum, f.value)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// sectionsOf returns the digests of the fields of a document's spec.
func sectionsOf(n *yaml.Node) map[string]string {
	out := map[string]string{}
	for _, f := range sortedFields(n) {
		if f.name != "spec" {
			continue
		}
		for _, f := range sortedFields(f.value) {
			sum := sha256.New()
			digestNode(sum, f.value)
			out[f.name] = hex.EncodeToString(sum.Sum(nil))
		}
	}
	return out
}

type field struct {
	name  string
	value *yaml.Node
}

func sortedFields(n *yaml.Node) []field {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	var out []field
	for i := 0; i+1 < len(n.Content); i += 2 {
		out = append(out, field{n.Content[i].Value, n.Content[i+1]})
	}
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return out
}

func digestNode(sum hash.Hash, n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		writeText(sum, "{"+strconv.Itoa(len(n.Content)))
		for _, f := range sortedFields(n) {
			writeText(sum, f.name)
			digestNode(sum, f.value)
		}
	case yaml.SequenceNode:
		writeText(sum, "["+strconv.Itoa(len(n.Content)))
		for _, item := range n.Content {
			digestNode(sum, item)
		}
	default:
		writeText(sum, n.Tag)
		writeText(sum, n.Value)
	}
}

// writeText adds a text in a way that no two sequences of texts look the same.
func writeText(sum hash.Hash, text string) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(text)))
	sum.Write(length[:])
	sum.Write([]byte(text))
}

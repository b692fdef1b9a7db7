package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
)

// maxDepth bounds how deep objects and arrays may be nested.
const maxDepth = 64

// parse reads the text of a secrets file. Its errors say where in the file
// they are and never hold a value.
func parse(cfg Config, text []byte) (map[string]map[string]string, error) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	p := &parser{cfg: cfg, text: text, dec: json.NewDecoder(bytes.NewReader(text)), secrets: map[string]map[string]string{}}
	p.dec.UseNumber()
	first, err := p.next()
	if err != nil {
		return nil, err
	}
	if first != json.Delim('{') {
		return nil, p.errorf("must hold a JSON object of secrets, not %s", kind(first))
	}
	if err := p.object(nil); err != nil {
		return nil, err
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, p.errorf("something follows the JSON object")
	}
	return p.secrets, nil
}

type parser struct {
	cfg     Config
	text    []byte
	dec     *json.Decoder
	secrets map[string]map[string]string
}

func (p *parser) next() (json.Token, error) {
	tok, err := p.dec.Token()
	if err == nil {
		return tok, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, p.at(int64(len(p.text)), "the JSON ends too early")
	}
	offset := p.dec.InputOffset()
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && syntax.Offset > offset {
		offset = syntax.Offset
	}
	return nil, p.at(offset, "is not JSON: "+withoutCharacter(err.Error()))
}

// withoutCharacter takes the quoted character out of a syntax error's text: it
// could belong to a secret.
func withoutCharacter(text string) string {
	rest, ok := strings.CutPrefix(text, "invalid character ")
	if !ok {
		return text
	}
	if i := strings.LastIndex(rest, "' "); i >= 0 {
		rest = rest[i+2:]
	}
	return "unexpected character " + rest
}

// object reads the members of an object whose brace has been read.
func (p *parser) object(path []string) error {
	for {
		tok, err := p.next()
		if err != nil {
			return err
		}
		if tok == json.Delim('}') {
			return nil
		}
		name, ok := tok.(string)
		if !ok {
			return p.errorf("is not JSON: a member's name must be a string")
		}
		if err := p.value(append(path, name)); err != nil {
			return err
		}
	}
}

// array reads the elements of an array whose bracket has been read.
func (p *parser) array(path []string) error {
	for i := 0; p.dec.More(); i++ {
		if err := p.value(append(path, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	_, err := p.next() // the closing bracket
	return err
}

func (p *parser) value(path []string) error {
	if len(path) > maxDepth {
		return p.errorf("is nested more than %d deep", maxDepth)
	}
	tok, err := p.next()
	if err != nil {
		return err
	}
	switch v := tok.(type) {
	case json.Delim:
		if v == '{' {
			return p.object(path)
		}
		return p.array(path)
	case string:
		return p.add(path, v)
	case json.Number:
		return p.add(path, v.String())
	case bool:
		return p.add(path, strconv.FormatBool(v))
	case nil:
		return p.add(path, "")
	}
	return p.errorf("is not JSON")
}

// add stores the value at path.
func (p *parser) add(path []string, value string) error {
	name := strings.Join(path, p.cfg.NestedSeparator)
	key := name
	if p.cfg.MultiValued {
		name, key = path[0], path[0]
		if len(path) > 1 {
			key = strings.Join(path[1:], p.cfg.NestedSeparator)
		}
	}
	values := p.secrets[name]
	if values == nil {
		values = map[string]string{}
		p.secrets[name] = values
	}
	if _, dup := values[key]; dup {
		full := strings.Join(path, p.cfg.NestedSeparator)
		return p.errorf("%q is given twice", full)
	}
	values[key] = value
	return nil
}

// errorf returns an error about what has just been read.
func (p *parser) errorf(format string, args ...any) error {
	return p.at(p.dec.InputOffset(), fmt.Sprintf(format, args...))
}

func (p *parser) at(offset int64, problem string) error {
	before := p.text[:min(int(offset), len(p.text))]
	line := 1 + bytes.Count(before, []byte("\n"))
	pos := component.Position{File: p.cfg.SecretsFile, Line: line}
	return &component.FieldError{Pos: pos, Problem: problem}
}

func kind(tok json.Token) string {
	switch tok.(type) {
	case json.Delim:
		return "an array"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "true or false"
	}
	return "null"
}

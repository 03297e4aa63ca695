package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// names are the keys by which the elements of a list are told apart.
var names = []string{"type", "destination", "containerPath", "container_path", "containerEventType", "name", "key"}

// fieldsOf reads an output: JSON documents, or lines such as `Version: 1`.
func fieldsOf(text string) (map[string]bool, error) {
	fields := map[string]bool{}
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, errors.New("there is none")
	}
	if !strings.ContainsAny(text[:1], "{[") {
		for line := range strings.Lines(text) {
			if key, value, found := strings.Cut(line, ":"); found {
				fields[strings.TrimSpace(key)] = strings.TrimSpace(value) != ""
			}
		}
		return fields, nil
	}
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var document any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return fields, nil
		}
		if err != nil {
			return nil, err
		}
		flatten("", document, fields)
	}
}

// random are names that differ from run to run: a host's end of a pod's interface.
var random = regexp.MustCompile(`^veth[0-9a-f]+$`)

// fromDisk are keys that count what came from a disk or went there. The session that comes second finds in memory what
// the first one had to read, so they are zero for one of the two, by chance of the order.
var fromDisk = regexp.MustCompile(`\.majorPageFaults\b|\[container_(fs_(reads|writes)(_bytes)?|blkio_device_usage)_total\]`)

// flatten notes every key of a document, with dots between, and whether any value of it is set. The elements of a list
// count as one, except for those that have names.
func flatten(prefix string, value any, fields map[string]bool) {
	switch value := value.(type) {
	case map[string]any:
		note(prefix, len(value) > 0, fields)
		for key, each := range value {
			key = random.ReplaceAllString(key, "veth*")
			flatten(strings.TrimPrefix(prefix+"."+key, "."), each, fields)
		}
	case []any:
		note(prefix, len(value) > 0, fields)
		for _, each := range value {
			flatten(prefix+"["+nameOf(each)+"]", each, fields)
		}
	case string:
		note(prefix, value != "" && value != "0", fields)
	case float64:
		note(prefix, value != 0, fields)
	case bool:
		note(prefix, value, fields)
	default:
		note(prefix, false, fields)
	}
}

func note(field string, set bool, fields map[string]bool) {
	if field != "" {
		fields[field] = fields[field] || set
	}
}

// nameOf is what an element of a list is called, where it has a name.
func nameOf(element any) string {
	object, isObject := element.(map[string]any)
	if !isObject {
		return ""
	}
	for _, key := range names {
		if name, isText := object[key].(string); isText {
			return name
		}
	}
	return ""
}

// missing returns the keys that are set by the peer and not by us. Below a key that we lack altogether none is named.
func missing(mine, peer map[string]bool) []string {
	var all []string
	for field, set := range peer {
		if set && !mine[field] && !fromDisk.MatchString(field) {
			all = append(all, field)
		}
	}
	slices.Sort(all)
	var heads []string
	for _, field := range all {
		if !slices.ContainsFunc(heads, func(head string) bool { return below(field, head) }) {
			heads = append(heads, field)
		}
	}
	return heads
}

// below tells whether a key is part of another one.
func below(field, head string) bool {
	rest, starts := strings.CutPrefix(field, head)
	return starts && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// exception is a missing field that is accepted.
type exception struct {
	step, field, reason string
	used                bool
}

// covers tells whether the exception is for this field of this step, or of every step of its command. A star at its
// beginning stands for whatever holds the field.
func (e *exception) covers(step, field string) bool {
	command, _, _ := strings.Cut(step, " ")
	if e.step != command && e.step != step {
		return false
	}
	if tail, anywhere := strings.CutPrefix(e.field, "*"); anywhere {
		return strings.HasSuffix(field, tail)
	}
	return below(field, e.field)
}

func (e *exception) String() string { return fmt.Sprintf("%s %s", e.step, e.field) }

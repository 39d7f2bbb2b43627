package cli

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// field is one field of a document.
type field struct {
	Path     string `json:"field"`
	Type     string `json:"type"`
	Optional bool   `json:"optional,omitempty"`
}

// fieldsOf lists what a document of a kind may say, in the order of the model. What the server gives is left out.
func fieldsOf(info intent.KindInfo) []field {
	out := []field{{"apiVersion", intent.APIVersion, false}, {"kind", string(info.Kind), false}, {"metadata.name", "name", false}}
	if info.Scope == intent.ScopeProject {
		out = append(out, field{"metadata.project", "name of a project", false})
	}
	if info.NeedSite {
		out = append(out, field{"metadata.site", "name of a site", false})
	}
	out = append(out, field{"metadata.labels", "map of string", true})
	return appendFields(out, "spec", reflect.TypeOf(info.New()).Elem())
}

func appendFields(out []field, path string, t reflect.Type) []field {
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		at, optional := path+"."+name, strings.Contains(opts, "omitempty")
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		elem := ft
		if ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct {
			elem, at = ft.Elem(), at+"[]"
		}
		out = append(out, field{at, typeName(ft), optional})
		if elem.Kind() == reflect.Struct && !decodesItself(elem) {
			out = appendFields(out, at, elem)
		}
	}
	return out
}

// decodesItself tells whether a type is one value in JSON although it is a struct or an array in Go.
func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "time, like 2026-11-21T10:00:00Z"
	case t == reflect.TypeFor[intent.Digest]():
		return "digest, like sha256:..."
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "string"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Struct {
			return "list"
		}
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map of " + typeName(t.Elem())
	case reflect.Struct:
		return "object"
	default:
		return "number"
	}
}

func (a *app) printFields(info intent.KindInfo) error {
	fields := fieldsOf(info)
	if a.output == "name" {
		for _, f := range fields {
			fmt.Fprintln(a.Out, f.Path)
		}
		return nil
	}
	return a.print(fields, func(t *table) {
		t.header("FIELD", "TYPE", "")
		for _, f := range fields {
			if f.Optional {
				t.row(f.Path, f.Type, "optional")
			} else {
				t.row(f.Path, f.Type, " ")
			}
		}
	})
}

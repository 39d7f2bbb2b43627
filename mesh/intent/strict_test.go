package intent

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type strictCase struct {
	Name  string            `json:"name"`
	Count int               `json:"count"`
	Inner struct{ On bool } `json:"inner"`
	List  []struct {
		MAC string `json:"mac"`
	} `json:"list"`
	Map map[string]int `json:"map"`
	Any any            `json:"any"`
	Dig Digest         `json:"digest"`
}

func TestDecodeStrict(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		got := ""
		if err := DecodeStrict([]byte(text), &strictCase{}); err != nil {
			if _, ok := err.(Problems); !ok {
				t.Errorf("%q: error is a %T, want Problems", text, err)
			}
			got = err.Error()
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: -want +got\n%s", text, d)
		}
	}
	f(`{"name":"a","count":1,"inner":{"On":true},"list":[{"mac":"x"}],"map":{"anything":1},"any":{"x":[{}]}}`, "")
	f(`{}`, "")
	f("{\n  \"nmae\": 1}", `line 2, column 9: nmae: unknown field; did you mean name?`)
	f(`{"Name":"a"}`, `line 1, column 8: Name: unknown field; did you mean name?`)
	f(`{"zzzzzzzz":1}`, `line 1, column 12: zzzzzzzz: unknown field; remove it`)
	f(`{"name":"a","name":"b"}`, `line 1, column 19: name: given twice; keep one`)
	f(`{"map":{"a":1,"a":2}}`, `line 1, column 18: map.a: given twice; keep one`)
	f(`{"any":{"a":1,"a":2}}`, `line 1, column 18: any.a: given twice; keep one`)
	f(`{"list":[{"mac":"x"},{"nac":"y"}]}`, `line 1, column 28: list[1].nac: unknown field; did you mean mac?`)
	f(`{"inner":{"on":true}}`, `line 1, column 15: inner.on: unknown field; did you mean On?`)
	f(`{"count":"1"}`, `line 1, column 13: count: is a string; give a whole number that fits`)
	f(`{"count":1.5}`, `line 1, column 13: count: is a number 1.5; give a whole number that fits`)
	f(`{"count":99999999999999999999}`, `line 1, column 30: count: is a number 99999999999999999999; give a whole number that fits`)
	f(`{"list":{}}`, `line 1, column 10: list: is an object; give a list`)
	f(`{"name":"a"} {}`, `line 1, column 15: more data after the document; send one document`)
	f(`{"name":"a"`, `line 1, column 12: the document ends too early; send it whole`)
	f(``, `line 1, column 1: the document ends too early; send it whole`)
	f(`{"name" "a"}`, `line 1, column 9: name: invalid character '"' after object key`)
	f(`{"any":`+strings.Repeat("[", MaxDepth+2)+strings.Repeat("]", MaxDepth+2)+`}`, `line 1, column 40: any`+strings.Repeat("[0]", MaxDepth)+`: nested too deep; at most 32 levels`)
}

func TestDecodeStrictDigest(t *testing.T) {
	err := DecodeStrict([]byte(`{"digest":"sha256:xyz"}`), &strictCase{})
	if err == nil || !strings.Contains(err.Error(), `cannot parse digest "sha256:xyz"`) {
		t.Errorf("a bad digest gives %v", err)
	}
}

// The place of a problem below spec is told relative to the document; line and column are the reader's to map.
func TestUnmarshalObjectPaths(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := DecodeObject([]byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
	f(doc(KindSite, "a", "", `{"regoin":"x"}`), `spec.regoin: unknown field; did you mean region?`)
	f(doc(KindSite, "a", "", `{"region":7}`), `spec.region: is a number; give a string`)
	f(doc(KindSite, "a", "", `7`), `spec: is a number; give an object`)
	f(doc(KindMachine, "a", "lon1", `{"nics":[{"mac":"x","bot":true}]}`), `spec.nics[0].bot: unknown field; did you mean boot?`)
}

func FuzzDecodeObject(f *testing.F) {
	for k, s := range goodSpecs() {
		f.Add([]byte(doc(k, "a", "lon1", s)))
	}
	f.Add([]byte(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"a","labels":{"":null}},"spec":null,"status":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := DecodeObject(b)
		if err != nil {
			if ps, ok := err.(Problems); !ok || len(ps) == 0 {
				t.Fatalf("error is a %T, want Problems", err)
			}
			return
		}
		// What was accepted must survive being written and read, and be judged the same.
		again := o.Clone()
		if ps := again.Validate(); len(ps) > 0 {
			t.Fatalf("accepted, then refused: %v", ps)
		}
		if again.Key() != o.Key() {
			t.Fatalf("key moved from %v to %v", o.Key(), again.Key())
		}
	})
}

package snmp

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gosnmp/gosnmp"
)

var update = flag.Bool("update", false, "write the goldens")

// object is one line of a recorded walk.
type object struct {
	name oid
	pdu  gosnmp.SnmpPDU
}

// record reads OID|tag|value, gzipped; tags are BER's, x means that the value is hex. Source: snmpsim's .snmprec format.
func record(t *testing.T, file string) []object {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, string(b))
}

func objects(t *testing.T, text string) []object {
	t.Helper()
	seen := map[string]object{}
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimRight(line, "\r\n"), "|", 3)
		name, ok := parseOID(f[0])
		if len(f) != 3 || !ok {
			continue
		}
		pdu := gosnmp.SnmpPDU{Name: name.String()}
		n, err := strconv.ParseUint(f[2], 10, 64)
		switch tag := f[1]; tag {
		case "2":
			i, ierr := strconv.Atoi(f[2])
			pdu.Type, pdu.Value, err = gosnmp.Integer, i, ierr
		case "4":
			pdu.Type, pdu.Value, err = gosnmp.OctetString, []byte(f[2]), nil
		case "4x":
			var raw []byte
			raw, err = hex.DecodeString(f[2])
			pdu.Type, pdu.Value = gosnmp.OctetString, raw
		case "65":
			pdu.Type, pdu.Value = gosnmp.Counter32, uint32(n)
		case "66":
			pdu.Type, pdu.Value = gosnmp.Gauge32, uint32(n)
		case "67":
			pdu.Type, pdu.Value = gosnmp.TimeTicks, uint32(n)
		case "70":
			pdu.Type, pdu.Value = gosnmp.Counter64, n
		default:
			pdu.Type, err = gosnmp.Null, nil
		}
		if err == nil {
			seen[pdu.Name] = object{name, pdu}
		}
	}
	return slices.SortedFunc(maps.Values(seen), func(a, b object) int { return slices.Compare(a.name, b.name) })
}

// responder is an SNMP agent, version 2c, that answers from a recorded walk.
type responder struct {
	conn    net.PacketConn
	objects []object
	// mangle changes what is sent; nil as result: nothing is.
	mangle func(request, answer *gosnmp.SnmpPacket) *gosnmp.SnmpPacket
	asked  int
	done   chan struct{}
}

func respond(t *testing.T, oo []object, mangle func(request, answer *gosnmp.SnmpPacket) *gosnmp.SnmpPacket) *responder {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &responder{conn: c, objects: oo, mangle: mangle, done: make(chan struct{})}
	go r.serve()
	t.Cleanup(r.stop)
	return r
}

func (r *responder) stop() {
	_ = r.conn.Close()
	<-r.done
}

func (r *responder) target() Target {
	return Target{Address: r.conn.LocalAddr().String(), Community: "secret"}
}

func (r *responder) serve() {
	defer close(r.done)
	g := &gosnmp.GoSNMP{Version: gosnmp.Version2c}
	b := make([]byte, 65535)
	for {
		n, from, err := r.conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		q, err := g.SnmpDecodePacket(b[:n])
		if err != nil || q.Community != "secret" {
			continue
		}
		r.asked++
		a := &gosnmp.SnmpPacket{Version: q.Version, Community: q.Community, PDUType: gosnmp.GetResponse, RequestID: q.RequestID}
		name, _ := parseOID(q.Variables[0].Name)
		if q.PDUType == gosnmp.GetBulkRequest {
			a.Variables = r.after(name, int(q.MaxRepetitions))
		} else {
			a.Variables = []gosnmp.SnmpPDU{r.exactly(name)}
		}
		if r.mangle != nil {
			a = r.mangle(q, a)
		}
		if a == nil {
			continue
		}
		if out, err := a.MarshalMsg(); err == nil {
			_, _ = r.conn.WriteTo(out, from)
		}
	}
}

func (r *responder) exactly(name oid) gosnmp.SnmpPDU {
	i, ok := slices.BinarySearchFunc(r.objects, name, func(o object, n oid) int { return slices.Compare(o.name, n) })
	if !ok {
		return gosnmp.SnmpPDU{Name: name.String(), Type: gosnmp.NoSuchObject}
	}
	return r.objects[i].pdu
}

func (r *responder) after(name oid, n int) (out []gosnmp.SnmpPDU) {
	i, ok := slices.BinarySearchFunc(r.objects, name, func(o object, n oid) int { return slices.Compare(o.name, n) })
	if ok {
		i++
	}
	for ; n > 0 && i < len(r.objects); i, n = i+1, n-1 {
		out = append(out, r.objects[i].pdu)
	}
	if n > 0 {
		out = append(out, gosnmp.SnmpPDU{Name: name.String(), Type: gosnmp.EndOfMibView})
	}
	return out
}

// text writes readings as the goldens have them.
func text(rr []Reading) string {
	var b strings.Builder
	for _, r := range rr {
		var labels []string
		for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
			labels = append(labels, fmt.Sprintf("%s=%q", k, r.Labels[k]))
		}
		v := "unknown"
		switch {
		case r.Known && r.Metric.Counter():
			v = fmt.Sprint(r.N)
		case r.Known:
			v = fmt.Sprintf("%.6g", r.Value)
		}
		if r.Reset {
			v += " reset"
		}
		if r.Metric.Counter() {
			v += fmt.Sprintf(" max %.6g/s", r.Max)
		}
		fmt.Fprintf(&b, "%s{%s} %s\n", r.Metric, strings.Join(labels, ","), v)
	}
	return b.String()
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs from what was read:\n%s", file, got)
	}
}

// TestRecorded replays recorded devices: what comes out is in the goldens.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.snmprec.gz")
	if err != nil || len(files) == 0 {
		t.Fatal("no recorded walks", err)
	}
	for _, f := range files {
		r := respond(t, record(t, f), nil)
		got, err := New().Read(t.Context(), "sw1", r.target())
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
		golden(t, strings.TrimSuffix(f, ".snmprec.gz")+".want", text(got))
	}
}

// TestCorpus replays recorded devices that may not be copied: each is read without an error, and has something to tell.
func TestCorpus(t *testing.T) {
	dir := os.Getenv("SKERRY_CORPUS")
	if dir == "" {
		t.Skip("set by make test-corpus")
	}
	files, err := filepath.Glob(filepath.Join(dir, "snmp", "*.snmprec.gz"))
	if err != nil || len(files) == 0 {
		t.Fatal("no recorded walks", err)
	}
	for _, f := range files {
		r := respond(t, record(t, f), nil)
		reader := New()
		got, err := reader.Read(context.Background(), "sw1", r.target())
		r.stop()
		counts, known := map[Metric]int{}, 0
		for _, x := range got {
			counts[x.Metric]++
			if x.Known {
				known++
			}
			for k, v := range x.Labels {
				if v == "" || len(v) > 128 || printable(v, 128) != v {
					t.Errorf("%s: label %s is %q", f, k, v)
				}
			}
		}
		t.Logf("%s: %d readings, %d known, %d requests: %v", filepath.Base(f), len(got), known, r.asked, counts)
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

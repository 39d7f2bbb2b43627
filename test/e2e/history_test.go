package e2e

import (
	"context"
	"net/url"
	"testing"

	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

// TestHistory: the sensors of a machine's BMC are read and kept, and answered through the coordinator; with the coordinator gone by each
// agent; after an agent was killed as before. A machine that is removed takes its series along. Real processes.
func TestHistory(t *testing.T) {
	s := procs.New(t, buildSkerry(t), "a1", "a2")
	const password = "history-password"
	controller, addr := rackBMC(t, password)
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"bmc","data":{"username":"root","password":"` + password + `"}}}`)
	s.Apply(`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"bmc":{"address":"` + addr + `","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:01"}]}}`)
	kept := func(who string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			l, err := s.API(who).Series(ctx, "lon1", url.Values{"match": {"skerry_bmc_temperature_celsius"}})
			return err == nil && len(l.Series) == 3 && l.Agents["a1"] == "ok" && l.Agents["a2"] == "ok"
		}
	}
	s.Until("the machine's temperatures are kept", kept("coordinator"))
	if n := controller.Sessions(); n > 1 {
		t.Errorf("%d sessions at the BMC", n)
	}
	s.Kill("coordinator")
	s.Until("a1 answers with nobody above", kept("a1"))
	s.Until("a2 answers, too", kept("a2"))
	s.Kill("a1")
	s.Agent("a1")
	s.Until("the site answers after its owner was killed", kept("a2"))
	s.Coordinator()
	s.Until("the coordinator asks again", kept("coordinator"))
	info, _ := intent.KindMachine.Info()
	s.Until("the machine can be removed", func(ctx context.Context) bool {
		_, err := s.API("coordinator").Delete(ctx, info, "lon1", "m1", false, "")
		return err == nil || client.Is(err, 404)
	})
	s.Until("its series are gone", func(ctx context.Context) bool {
		l, err := s.API("a1").Series(ctx, "lon1", url.Values{})
		return err == nil && len(l.Series) == 0
	})
}

package pki

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/spf13/cobra"
)

type verbs struct{ account.Shell }

// rotation are the flags of one command.
type rotation struct {
	api.RotateRequest
	announced string
	force     string
	nextRoots string
	wait      time.Duration
}

// RotateCmd returns `rotate` and what hangs below it.
func RotateCmd(s account.Shell) *cobra.Command {
	v := verbs{s}
	c := &cobra.Command{
		Use: "rotate", Short: "Change keys for new ones: accept, use, retire", Args: s.Args(),
		Long: "Change keys for new ones in three phases. Accept: the new key is made, and everybody learns that it counts. Use: it is used, and\n" +
			"the old one counts still. Retire: the old one counts no more. Only retire waits for who is absent, or does not with --force-after.\n" +
			"Who comes back, even after years, catches up by himself. The same command goes on with what is under way; without a command it\ngoes on too, as agents come.",
		Example: "  skerry pki rotate                   # what is under way\n  skerry pki rotate agent lon1/a1",
		RunE:    func(c *cobra.Command, _ []string) error { return v.list(c) },
	}
	c.AddCommand(v.agentCmd(), v.domainCmd(api.RotateCA, "Change the CA of this coordinator", "accept: the trust document lists the new CA. Use: the coordinator goes over to it, and every agent gets a certificate under it, on the keys that it has."),
		v.domainCmd(api.RotateWriter, "Change the key that signs intent", "accept: the trust document lists the new writer. Use: every site's chain goes on under it."),
		v.domainCmd(api.RotateRoot, "Change the keys that sign trust documents", "The old roots and the announced next ones sign one document; a new next set is announced with it. With --lost the next ones sign\nalone, and `skerry pki trust accept` lets that count."))
	return c
}

func (v verbs) agentCmd() *cobra.Command {
	r := rotation{RotateRequest: api.RotateRequest{What: api.RotateAgent}}
	c := &cobra.Command{
		Use: "agent SITE/AGENT | agent --site SITE --all", Short: "Change the keys of an agent, or of all agents of a site one after the other", Args: v.ArgsUpTo(0, "SITE/AGENT"),
		Long: "Change the keys of an agent, or of all agents of a site, one after the other: the agent makes new ones on its own disk, its peers\n" +
			"learn of them, secrets are sealed to them, the agent changes over without an interruption, and the old ones count no more. Agents\n" +
			"do so by themselves once a year. Exit code 3 when somebody is waited for.",
		Example: "  skerry pki rotate agent lon1/a1 --dry-run\n  skerry pki rotate agent lon1/a1\n  skerry pki rotate agent --site lon1 --all\n" +
			"  skerry pki rotate agent lon1/a1 --force-after 400d   # retire without peers that were silent so long",
		ValidArgsFunction: account.CompleteAgents(v),
		RunE: func(c *cobra.Command, given []string) error {
			r.Site = v.Site()
			switch {
			case len(given) == 1 && r.All, len(given) == 0 && !r.All:
				return &account.UsageError{Err: errors.New("cannot tell whose keys: give SITE/AGENT, or --site SITE --all")}
			case len(given) == 1:
				r.Agent = given[0]
				if site, agent, ok := strings.Cut(given[0], "/"); ok {
					r.Site, r.Agent = site, agent
				}
			}
			if !intent.IsLabel(r.Site) || !r.All && !intent.IsLabel(r.Agent) {
				return &account.UsageError{Err: fmt.Errorf("cannot read %q as SITE/AGENT", r.Site+"/"+r.Agent)}
			}
			return v.rotate(c, r)
		},
	}
	c.Flags().BoolVar(&r.All, "all", false, "every agent of --site, one after the other")
	r.flags(c)
	return c
}

func (v verbs) domainCmd(what, short, phases string) *cobra.Command {
	r := rotation{RotateRequest: api.RotateRequest{What: what}}
	c := &cobra.Command{
		Use: what, Short: short, Args: v.Args(), Long: short + ". " + phases + " Exit code 3 when somebody is waited for.", Example: "  skerry pki rotate " + what + " --dry-run\n  skerry pki rotate " + what,
		RunE: func(c *cobra.Command, _ []string) error { return v.rotate(c, r) },
	}
	r.flags(c)
	if what == api.RotateRoot {
		c.Flags().StringVar(&r.nextRoots, "next", "", "roots.json of \"skerry pki init --next\": the roots to announce; needed where holders keep the roots")
		c.Flags().StringVar(&r.announced, "announced", "", "roots.json that the announced roots were made with; needed where the coordinator was rebuilt from its sites")
		c.Flags().BoolVar(&r.Lost, "lost", false, "the roots are lost or stolen: the announced next ones sign alone, and a person accepts that at the coordinator and at every agent")
		c.Flags().Uint64Var(&r.After, "after", 0, "with --lost: the last trust document that still counts, where a thief signed those after it")
	}
	return c
}

func (r *rotation) flags(c *cobra.Command) {
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "check and say what would be done, change nothing")
	c.Flags().BoolVar(&r.Again, "again", false, "begin a new rotation where the last one is done")
	c.Flags().StringVar(&r.force, "force-after", "", "retire without those who were not heard for that long, like 400d or 36h; they catch up when they return")
	c.Flags().DurationVar(&r.wait, "wait", time.Minute, "how long to follow those who can be reached")
}

// followEvery is how often a rotation that moves is asked for; an agent's part takes about a second.
const followEvery = 500 * time.Millisecond

// rotate begins or goes on, and follows until it is done, or nobody is left who could be reached, or time is up.
func (v verbs) rotate(c *cobra.Command, r rotation) error {
	age, err := parseAge(r.force)
	if err != nil {
		return &account.UsageError{Err: err}
	}
	r.ForceAfterSeconds = int64(age / time.Second)
	if r.nextRoots != "" {
		b, err := holder.LoadBundle(r.nextRoots)
		if err != nil {
			return err
		}
		r.Next = &b.Next
	}
	if r.announced != "" {
		b, err := holder.LoadBundle(r.announced)
		if err != nil {
			return err
		}
		r.Announced = &b.Next
	}
	cl, err := v.Client()
	if err != nil {
		return err
	}
	st, err := cl.Rotate(c.Context(), r.RotateRequest)
	if err != nil {
		return v.explain(err)
	}
	if st, err = carry(c.Context(), cl, r, st); err != nil {
		return v.explain(err)
	}
	if !r.DryRun {
		if st, err = follow(c.Context(), cl, r, st); err != nil {
			return v.explain(err)
		}
	}
	if err := v.Print(st, func(t account.Table) { printStatus(t, st, time.Now()) }); err != nil {
		return err
	}
	if !r.DryRun && st.Phase != api.PhaseDone {
		return v.Partial()
	}
	return nil
}

func (v verbs) explain(err error) error {
	if client.IsType(err, "done") {
		return &account.HintError{Err: err, Next: "the same command with --again begins a new rotation"}
	}
	return v.Explain(err)
}

func follow(ctx context.Context, cl *client.Client, r rotation, st *api.RotationStatus) (*api.RotationStatus, error) {
	q := r.RotateRequest
	q.Again = false // begun once
	end := time.NewTimer(r.wait)
	defer end.Stop()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for st.Phase != api.PhaseDone && !st.Waits() {
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-end.C:
			return st, nil
		case <-tick.C:
		}
		next, err := cl.Rotate(ctx, q)
		if err != nil {
			return st, err
		}
		st = next
	}
	return st, nil
}

// list shows what is under way.
func (v verbs) list(c *cobra.Command) error {
	cl, err := v.Client()
	if err != nil {
		return err
	}
	l, err := cl.Rotations(c.Context())
	if err != nil {
		return v.Explain(err)
	}
	return v.Print(l, func(t account.Table) {
		if len(l.Items) == 0 {
			t.Row("nothing", "is under way")
		}
		for _, s := range l.Items {
			printStatus(t, &s, time.Now())
		}
	})
}

func printStatus(t account.Table, s *api.RotationStatus, now time.Time) {
	name := strings.TrimSpace(s.What + " " + s.Target)
	for _, p := range s.Steps {
		t.Row(name, p.Phase, p.Text, fmt.Sprintf("%d/%d", p.Have, p.Of))
	}
	if s.Phase == api.PhaseDone {
		t.Row(name, s.Phase, "", "")
	}
	for _, r := range s.Ledger {
		if r.Phase != api.PhaseDone {
			t.Row(r.Agent, r.Phase, "since "+account.Age(r.Since, now), r.Held)
		}
	}
	if s.Next != "" {
		t.Row("next", s.Phase, "", s.Next)
	}
}

// maxAge bounds --force-after: a century of absence.
const maxAge = 100 * 365 * 24 * time.Hour

// parseAge reads an age like 400d or 36h; "" is none.
func parseAge(s string) (time.Duration, error) {
	bad := fmt.Errorf("cannot read %q as an age: give days or hours, like 400d or 36h", s)
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var whole uint64
		if whole, err = strconv.ParseUint(n, 10, 16); err == nil {
			d = time.Duration(whole) * 24 * time.Hour
		}
	}
	if err != nil || d < time.Second || d > maxAge {
		return 0, bad
	}
	return d, nil
}

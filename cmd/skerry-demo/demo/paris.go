package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// paris adds a second site that reaches the first, and gives it an image while there is no coordinator: its intent comes on a stick, the
// image from lon1.
func (w *walk) paris(context.Context, *errgroup.Group) error {
	stick, image := filepath.Join(w.l.dir, "par1.jsonl"), filepath.Join(w.l.dir, "second.img")
	ca := filepath.Join(w.l.dir, "coordinator", "keys", "root.crt")
	for _, step := range []struct {
		name string
		do   func() (string, error)
	}{
		{"9 a second site, par1, reaches lon1; its agent joins and takes what there is from lon1", func() (string, error) {
			site := "apiVersion: skerry/v1\nkind: Site\nmetadata: {name: par1}\nspec: {region: eu-west, zone: paris, peers: [lon1]}\n"
			file := filepath.Join(w.l.dir, "par1.yaml")
			if err := os.WriteFile(file, []byte(site), 0o644); err != nil {
				return "", fmt.Errorf("cannot write site: %w", err)
			}
			if _, err := w.l.cli(w.ctx, "coord", "apply", "-f", file); err != nil {
				return "", err
			}
			token, err := w.l.cli(w.ctx, "coord", "token", "create", "--site", "par1", "--agent", "p1")
			if err != nil {
				return "", err
			}
			if err := w.l.startParis(strings.TrimSpace(token)); err != nil {
				return "", err
			}
			if _, err := w.l.cli(w.ctx, "coord", "context", "set", "par1", "--server", "https://"+management("p1"), "--token", w.l.tokens["admin"], "--ca", ca, "--site", "par1"); err != nil {
				return "", err
			}
			return w.broughtFrom("p1", "par1", "tiny")
		}},
		{"9 p1 is off; another image is uploaded, lon1 has it; par1's intent goes onto a stick", func() (string, error) {
			if err := w.l.procs["p1"].Kill(); err != nil {
				return "", err
			}
			b, err := os.ReadFile(filepath.Join(w.cfg.Assets, "tiny.img"))
			if err != nil {
				return "", fmt.Errorf("cannot read the image: %w", err)
			}
			b[0] ^= 1 // other octets, another digest
			if err := os.WriteFile(image, b, 0o644); err != nil {
				return "", fmt.Errorf("cannot write an image: %w", err)
			}
			if _, err := w.l.cli(w.ctx, "coord", "asset", "upload", image, "--name", "second", "--class", "image"); err != nil {
				return "", err
			}
			from, err := w.broughtFrom("a2", "lon1", "second")
			if err != nil {
				return "", err
			}
			_, err = w.l.cli(w.ctx, "coord", "intent", "export", "par1", "-o", stick)
			return "lon1: " + from, err
		}},
		{"9 the coordinator is killed and black-holed; p1 starts, reads the stick and has the image from lon1", func() (string, error) {
			if err := w.l.procs["coordinator"].Kill(); err != nil {
				return "", err
			}
			if err := w.l.cutWAN(true); err != nil {
				return "", err
			}
			if err := w.l.ns["p1"].IP("route", "replace", "blackhole", "10.99.1.1/32"); err != nil {
				return "", err
			}
			if err := w.l.startParis(""); err != nil {
				return "", err
			}
			err := w.until(quick, "p1 answers", func() (bool, error) {
				c, err := w.l.api("p1", "admin")
				if err != nil {
					return false, nil
				}
				_, err = c.Whoami(w.ctx)
				return err == nil, nil
			})
			if err != nil {
				return "", err
			}
			if _, err := w.l.cli(w.ctx, "p1", "--context", "par1", "intent", "import", stick); err != nil {
				return "", err
			}
			from, err := w.broughtFrom("p1", "par1", "second")
			if err == nil && !strings.Contains(from, "from site:lon1/") {
				err = errors.New("it did not come from lon1: " + from)
			}
			return from, err
		}},
	} {
		if err := w.r.step(step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// broughtFrom waits until an agent has an asset, and tells from where it came.
func (w *walk) broughtFrom(agent, site, asset string) (from string, err error) {
	c, err := w.l.api(agent, "admin")
	if err != nil {
		return "", err
	}
	info, _ := intent.KindAsset.Info()
	var digest intent.Digest
	err = w.until(2*quick, agent+" has asset "+asset, func() (bool, error) {
		o, err := c.Get(w.ctx, info, "", asset)
		var st struct {
			Agents []struct{ Agent, State string }
		}
		if err != nil || json.Unmarshal(o.Status, &st) != nil {
			return false, nil
		}
		digest = o.Spec.(*intent.AssetSpec).Digest
		for _, a := range st.Agents {
			if a.Agent == agent && a.State == "complete" {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return "", err
	}
	err = c.Events(w.ctx, api.EventQuery{Site: site}, func(e intent.Event) error {
		if e.Type != "asset.complete" || e.Agent != agent || e.Fields["digest"] != digest.String() {
			return nil
		}
		for k, v := range e.Fields {
			if source, ok := strings.CutPrefix(k, "source."); ok {
				from += fmt.Sprintf("%s octets from %s ", v, source)
			}
		}
		return nil
	})
	return strings.TrimSpace(from), err
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReadSeed(t *testing.T) {
	f := func(want string, files map[string]string) {
		t.Helper()
		dir := t.TempDir()
		for name, b := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(b), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		in, err := readSeed(dir)
		if err != nil {
			if want != "error" {
				t.Errorf("%v", err)
			}
			return
		}
		slices.SortFunc(in.nics, func(a, b nic) int { return strings.Compare(a.name, b.name) })
		var nics []string
		for _, n := range in.nics {
			nics = append(nics, fmt.Sprintf("{%s %s %v %v %s %v}", n.mac, n.name, n.dhcp, n.addrs, n.gw, n.dns))
		}
		if got := fmt.Sprintf("%s %s %v %v %s", in.id, in.hostname, in.users, nics, strings.Join(in.phoneHome, " ")); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	meta := "instance-id: i-1\nlocal-hostname: web-1\n"
	f("i-1 web-1 [] [] ", map[string]string{"meta-data": meta})
	f("i-1 web-1 [{skerry [k1]} {ops [k2 k3]}] [{52:54:00:00:00:01 id0 false [10.0.0.2/24] 10.0.0.1 [1.1.1.1]} { id1 true [] invalid IP []}] http://a/i-1/",
		map[string]string{
			"meta-data":   meta,
			"vendor-data": "phone_home:\n  url: http://vendor/\n",
			"user-data": "#cloud-config\nssh_authorized_keys: [k1]\nusers:\n  - default\n  - name: ops\n    ssh_authorized_keys: [k2, k3]\n    sudo: ALL=(ALL) NOPASSWD:ALL\n" +
				"phone_home: {url: \"http://a/$INSTANCE_ID/\", post: all, tries: 10}\npackages: [vim]\n",
			"network-config": "version: 2\nethernets:\n  id0:\n    match: {macaddress: \"52:54:00:00:00:01\"}\n    set-name: eth0\n    addresses: [10.0.0.2/24]\n" +
				"    routes: [{to: default, via: 10.0.0.1}]\n    nameservers: {addresses: [1.1.1.1]}\n  id1: {dhcp4: true}\n",
		})
	f("i-1 web-1 [] [{ e false [10.0.0.2/24] 10.0.0.1 []}] ", map[string]string{
		"meta-data": meta, "user-data": "#!/bin/sh\n",
		"network-config": "network:\n  version: 2\n  ethernets:\n    e: {addresses: [10.0.0.2/24], gateway4: 10.0.0.1}\n",
	})
	f("error", nil)
	f("error", map[string]string{"meta-data": meta, "user-data": "#cloud-config\nusers: [{name: ../x}]\n"})
	f("error", map[string]string{"meta-data": meta, "network-config": "ethernets: {e: {addresses: [nonsense]}}"})
	f("error", map[string]string{"meta-data": "[: bad"})
}

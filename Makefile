# Skerry. `make help` lists what there is; README.md says what each needs.
SHELL     := /bin/bash
OUT       ?= out
BIN       ?= bin
CORPUS    ?= ../shared/testdata
# grpc's tracing pages call templates by reflection, which keeps the linker from dropping dead code: 40 MB instead of 27.
GOFLAGS   += -trimpath -tags=grpcnotrace
LDFLAGS   := -s -w
# Nothing of these modules is on a hot path; the binary is 0.9 MB smaller when nothing of them is inlined.
SLIM      := github.com/gosnmp github.com/zmap github.com/cilium github.com/weppos github.com/cloudflare github.com/danielgtaylor github.com/goccy github.com/pelletier github.com/spf13 github.com/miekg go.uber.org google.golang.org
TOOLS     := $(abspath $(BIN)/tools)
GOFUMPT   := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
BPF2GO    := github.com/cilium/ebpf/cmd/bpf2go@v0.22.0
DEADCODE  := golang.org/x/tools/cmd/deadcode@v0.52.0
TESTFLAGS ?= -timeout 25m -p 2
# Packages begin in this order: with the longest first, no core waits for it at the end.
LONGEST   := ./test/e2e ./cmd/skerry-demo/demo ./test/fault
FUZZTIME  ?= 30s

# Debian packages, by what needs them. Nothing is needed to run skerry itself but `ipxe` for its loaders.
PKG_IMAGES := mtools fdisk dosfstools e2fsprogs cpio kmod busybox-static grub-common grub-pc-bin grub-efi-amd64-bin
PKG_LAB    := qemu-system-x86 ovmf ipxe ipxe-qemu iproute2 procps ethtool openvswitch-switch
PKG_PEERS  := dnsmasq-base kea-admin isc-dhcp-relay kea-dhcp4-server udhcpc isc-dhcp-client curl atftp nftables nginx-light openssl etcd-server pmacct rrdtool prometheus snmpd openipmi ipmitool iperf3 rsync aria2 openssh-client openssh-server
PKG_DEBIAN := debootstrap openssh-client
PKG_BPF    := clang llvm libbpf-dev

.DEFAULT_GOAL := help
.PHONY: help build build-demo demo demo-keep test test-corpus check fuzz race bench bench-mesh bench-boot bench-telemetry size clean clean-lab ramdisk image-tiny image-debian e2e-debian soak packages-demo packages-test packages-debian packages-bpf bpf

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the two binaries, static, into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build $(GOFLAGS) $(foreach p,$(SLIM),-gcflags='$(p)/...=-l') -ldflags '$(LDFLAGS)' -o $(BIN)/skerry ./cmd/skerry
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/skerry-installer ./cmd/skerry-installer

build-demo: # the walk through the main job; no part of the product
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/skerry-demo ./cmd/skerry-demo

demo: packages-demo build build-demo ramdisk image-tiny ## the main job on this host, about 10 minutes; needs root
	$(BIN)/skerry-demo --assets $(OUT) --examples examples

demo-keep: packages-demo build build-demo ramdisk image-tiny ## the same, and leave it running until Ctrl-C
	$(BIN)/skerry-demo --assets $(OUT) --examples examples --keep

test: packages-test ramdisk image-tiny ## every test; as root all of them, else what an ordinary user can run
	go test $(TESTFLAGS) $(LONGEST) ./...

check: $(TOOLS)/gofumpt $(TOOLS)/staticcheck $(TOOLS)/deadcode ## format, vet, staticcheck, dead code, the rules of the repository
	@test -z "$$($(TOOLS)/gofumpt -l $$(git ls-files '*.go'))" || { $(TOOLS)/gofumpt -l $$(git ls-files '*.go'); echo 'run gofumpt -w on these'; exit 1; }
	go vet ./...
	$(TOOLS)/staticcheck ./...
	@dead=$$($(TOOLS)/deadcode -test ./... | grep -v '^$$' || true); test -z "$$dead" || { echo "$$dead"; exit 1; }
	go test ./test/arch

$(TOOLS)/gofumpt:
	GOBIN=$(TOOLS) go install $(GOFUMPT)
$(TOOLS)/staticcheck:
	GOBIN=$(TOOLS) go install $(STATICCHECK)
$(TOOLS)/deadcode:
	GOBIN=$(TOOLS) go install $(DEADCODE)

race: ## the race detector over what runs concurrently; needs gcc
	go test -race -timeout 20m ./mesh/... ./siteagent/... ./storage/... ./coordinator/...

fuzz: ## every fuzz target for FUZZTIME (30 s), two at a time; `make test` runs their corpora
	@for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | sort); do for t in $$(grep -hoE '^func Fuzz[A-Za-z0-9]+' $$f | sed 's/func //'); do \
	  echo "$$(dirname $$f) $$t"; done; done | xargs -P 2 -n 2 sh test/fuzz.sh $(FUZZTIME)

test-corpus: ## recorded packets and trees that may not be copied, read in place: CORPUS=DIR
	@if [ -d "$(CORPUS)" ]; then SKERRY_CORPUS=$(abspath $(CORPUS)) go test -count 1 -run Corpus -v ./boot/dhcp ./boot/bmc/ipmi ./boot/bmc/redfish ./telemetry/sflow ./telemetry/snmp; else echo "no corpus at $(CORPUS): skipped"; fi

bench: packages-test build ramdisk image-tiny ## peers and us side by side; results go to docs/benchmarks.md by hand
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m -p 1 ./test/bench/... ./test/e2e/... ./coordinator

bench-mesh: packages-test ## the asset mesh beside plain copies, rsync, aria2 and nginx, and its memory; as root, about 15 minutes, 20 GiB of disk
	go test -run '^$$' -bench 'BenchmarkCopy|BenchmarkOthers|BenchmarkSiteFill|BenchmarkBootHTTP|BenchmarkMemory' -benchtime 1x -timeout 60m ./test/bench

bench-boot: packages-test ## DHCP beside kea and dnsmasq, TFTP beside dnsmasq, 6 minutes; then 1,000 simulated machines, which takes long
	go test -run '^$$' -bench 'BenchmarkDHCP|BenchmarkTFTP' -benchtime 1x -timeout 30m ./test/e2e/netboot
	go test -tags soak -count 1 -timeout 60m -v -run '^TestThousand$$' ./siteagent/bootnet

bench-telemetry: packages-test ## sFlow beside goflow2's decoder, history beside rrdtool, a link with and without the probe, about 15 minutes
	cd test/bench/testdata/goflow2 && go test -run '^$$' -bench . -benchtime 1x -count 1 .
	go test -run '^$$' -bench 'BenchmarkSeries|BenchmarkProbe' -skip 'rate=1$$' -benchtime 1x -timeout 30m ./test/bench

# Each run takes new seeds: four times 250 histories and twice 50 decades are F10's 1,000 and F7's 100 in jobs that end within the hour.
soak: ## what is too long for every change, in jobs of at most an hour
	@set -e; for t in TestKill TestKilledAtEachPoint TestDomainKeysAtEachPoint TestPowerCut TestBitFlip 'TestFullDisk|TestOldCopy|TestHostileDocuments' TestRotateUnderLoad TestRevokedComesBack TestBadWires TestLateWires 'TestHostilePeer|TestHalfOpen' 'TestTenYearsAlone|TestWrongClocks' TestTenYearsAlone TestHistories TestHistories TestHistories TestHistories TestEverything; do \
	  echo "soak $$t"; go test -tags soak -count 1 -timeout 60m -run "^($$t)$$$$" ./test/fault; done
	@echo "soak TestApart"; go test -tags soak -count 1 -timeout 60m -run '^TestApart$$' ./mesh/gossip
	@echo "soak kills and power cuts of series"; go test -tags soak -count 1 -timeout 60m -run '^(TestKilled|TestPowerCut)$$' ./telemetry/rrd
	@echo "soak faults of BMCs"; go test -tags soak -count 1 -timeout 60m -run '^TestFaultMatrix$$' ./siteagent/bootnet
	@echo "soak fuzz"; $(MAKE) --no-print-directory fuzz FUZZTIME=65s

bpf: packages-bpf $(TOOLS)/gofumpt ## the probe's programs for the kernel, compiled anew; what comes out is committed
	cd telemetry/probe && go run $(BPF2GO) -target bpfel -output-stem count -go-package probe count bpf/count.c -- -O2 -g -Wall -I/usr/include/$$(uname -m)-linux-gnu
	$(TOOLS)/gofumpt -w telemetry/probe/count_bpfel.go

size: build ## sizes against their budgets
	@for b in skerry:36000000 skerry-installer:12000000; do f=$(BIN)/$${b%%:*}; s=$$(stat -c %s $$f); echo "$$f $$s of $${b##*:}"; test $$s -le $${b##*:} || exit 1; done

ramdisk: $(OUT)/ramdisk.gz ## kernel and install ramdisk into out/
$(OUT)/ramdisk.gz: $(shell git ls-files 'cmd/skerry-installer/*.go' 'boot/install/*.go' 'boot/inventory/*.go' 'storage/image/*.go' 'storage/erase/*.go' 'mesh/intent/*.go' 'mesh/intent/erasure/*.go' 'pki/document/*.go') deploy/ramdisk/build.sh go.mod
	sh deploy/ramdisk/build.sh $(OUT)
	cp $(OUT)/ramdisk/vmlinuz $(OUT)/vmlinuz && cp $(OUT)/ramdisk/ramdisk.gz $(OUT)/ramdisk.gz

image-tiny: $(OUT)/tiny.img ## the demo's image into out/
$(OUT)/tiny.img: deploy/images/tiny/build.sh deploy/images/disk.sh $(shell git ls-files 'deploy/images/tinyinit/*.go')
	sh deploy/images/tiny/build.sh $(OUT)

image-debian: packages-debian ## a Debian image with cloud-init and sshd into out/; needs root
	sh deploy/images/debian/build.sh $(OUT)

e2e-debian: build ramdisk image-debian ## install the Debian image for real and log in over SSH; long
	SKERRY_E2E_DEBIAN=1 go test -run TestInstallDebian -timeout 60m -v ./test/e2e

clean: ## what was built
	rm -rf $(BIN) $(OUT)

clean-lab: ## network namespaces of dead runs
	go test ./test/sim/netlab -run TestSweep -count 1

packages-demo packages-test packages-debian: PKG = $(PKG_IMAGES) $(PKG_LAB)
packages-test: PKG += $(PKG_PEERS)
packages-debian: PKG += $(PKG_DEBIAN)
packages-bpf: PKG = $(PKG_BPF)
packages-demo packages-test packages-debian packages-bpf:
	@sh deploy/packages.sh $(PKG)

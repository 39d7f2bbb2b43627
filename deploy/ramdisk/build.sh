#!/bin/sh
# Builds kernel and install ramdisk: deploy/ramdisk/build.sh OUT [cloud|standard]
# Debian's kernel package is downloaded once into OUT/kernel-FLAVOUR and unpacked, never installed.
set -eu
cd "$(dirname "$0")/../.."
out=${1:?usage: build.sh OUT [cloud|standard]}
flavour=${2:-cloud}
mkdir -p "$out"
out=$(cd "$out" && pwd)
kernel=$(sh deploy/ramdisk/kernel.sh "$out" "$flavour")

CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/skerry-installer" ./cmd/skerry-installer
go run ./cmd/skerry-installer/mkramdisk -kernel-root "$kernel" -init "$out/skerry-installer" -out "$out/ramdisk"

#!/bin/sh
# Prints the directory of an unpacked Debian kernel package: deploy/ramdisk/kernel.sh OUT cloud|standard
set -eu
out=${1:?usage: kernel.sh OUT cloud|standard}
case ${2:?usage: kernel.sh OUT cloud|standard} in
cloud) meta=linux-image-cloud-amd64 ;;
standard) meta=linux-image-amd64 ;;
*) echo "kernel.sh: unknown flavour $2" >&2; exit 2 ;;
esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
dir=$out/kernel-$2
if [ ! -d "$dir" ]; then
	package=$(apt-cache depends "$meta" | awk '/Depends: linux-image-[0-9]/{print $2; exit}')
	[ -n "$package" ] || { echo "kernel.sh: $meta is not in the package lists: run apt-get update" >&2; exit 1; }
	tmp=$(mktemp -d "$out/kernel.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	(cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download "$package") >&2
	mkdir "$tmp/root"
	dpkg-deb -x "$tmp"/*.deb "$tmp/root"
	mv "$tmp/root" "$dir"
fi
echo "$dir"

#!/bin/sh
# Builds a small disk image that boots from BIOS and UEFI, reads a NoCloud seed and phones home, for the demo and the tests:
#   deploy/images/tiny/build.sh OUT      makes OUT/tiny.img, 48 MiB
# No root, no loop device. Needs: fdisk mtools e2fsprogs grub-pc-bin grub-efi-amd64-bin grub-common busybox-static
set -eu
cd "$(dirname "$0")/../../.."
PATH=$PATH:/usr/sbin:/sbin
out=${1:?usage: build.sh OUT}
mkdir -p "$out"
out=$(cd "$out" && pwd)
kernel=$(sh deploy/ramdisk/kernel.sh "$out" cloud)
work=$(mktemp -d "$out/tiny.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Root: kernel, ramdisk with our init, GRUB's configuration.
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/init" ./deploy/images/tinyinit
go run ./cmd/skerry-installer/mkramdisk -kernel-root "$kernel" -init "$work/init" -out "$work/boot" \
	-modules virtio_pci,virtio_net,virtio_blk,?virtio_rng,vfat,nls_cp437,nls_ascii,?nls_utf8,?nvme,?ahci,?sd_mod,?button,?evdev \
	-file bin/busybox=/bin/busybox >&2
mkdir -p "$work/root/boot/grub" "$work/root/etc" "$work/root/home" "$work/root/root"
mv "$work/boot/vmlinuz" "$work/boot/ramdisk.gz" "$work/root/boot/"
cat >"$work/root/boot/grub/grub.cfg" <<'END'
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set gfxpayload=text
echo "skerry-tiny: loading"
linux /boot/vmlinuz console=ttyS0 panic=5 quiet no_timer_check
initrd /boot/ramdisk.gz
boot
END
sh deploy/images/disk.sh "$work/tiny.img" 48 "$work/root"
mv "$work/tiny.img" "$out/tiny.img"
echo "$out/tiny.img"

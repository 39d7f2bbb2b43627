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
img=$work/tiny.img

# Partitions in sectors: BIOS boot 1 MiB, EFI system 4 MiB, root 40 MiB.
bios=2048 esp=4096 root=12288 rootsize=81920
truncate -s 48M "$img"
sfdisk -q "$img" <<END
label: gpt
start=$bios, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=$esp, size=8192, type=uefi, name=esp
start=$root, size=$rootsize, type=linux, name=root
END

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
linux /boot/vmlinuz console=ttyS0 panic=5 quiet
initrd /boot/ramdisk.gz
boot
END
mke2fs -q -F -t ext4 -L skroot -d "$work/root" -E "offset=$((root * 512)),root_owner=0:0" "$img" $((rootsize / 2))k

# BIOS: GRUB's core in the BIOS-boot partition, its boot sector in LBA 0. What grub-bios-setup would do with a loop device:
# the boot sector gets the core's sector at 0x5C, the core's first sector that of its rest at 0x1F4.
grub-mkimage -O i386-pc -o "$work/core.img" -p '(,gpt3)/boot/grub' biosdisk part_gpt ext2 linux normal serial terminal echo
put() { # put OFFSET OCTAL... : octets into the image
	at=$1
	shift
	# shellcheck disable=SC2059
	printf "$*" | dd of="$img" bs=1 seek="$at" conv=notrunc status=none
}
[ "$(stat -c %s "$work/core.img")" -le $((2048 * 512)) ] || { echo "build.sh: core.img is too large" >&2; exit 1; }
dd if=/usr/lib/grub/i386-pc/boot.img of="$img" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$img" bs=512 seek=$bios conv=notrunc status=none
put $((0x5C)) '\000\010\000\000\000\000\000\000'                   # 2048
put $((bios * 512 + 0x1F4)) '\001\010\000\000\000\000\000\000' # 2049

# UEFI: one file on the removable path.
cat >"$work/early.cfg" <<'END'
search --no-floppy --label --set=root skroot
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
END
grub-mkimage -O x86_64-efi -o "$work/BOOTX64.EFI" -p /EFI/BOOT -c "$work/early.cfg" \
	part_gpt fat ext2 linux normal search search_label serial terminal configfile echo
mformat -i "$img@@$((esp / 2))K" -T 8192 -h 16 -s 63 -v ESP ::
mmd -i "$img@@$((esp / 2))K" ::/EFI ::/EFI/BOOT
mcopy -i "$img@@$((esp / 2))K" "$work/BOOTX64.EFI" ::/EFI/BOOT/

mv "$img" "$out/tiny.img"
echo "$out/tiny.img"

#!/bin/sh
# Makes a raw disk image that boots from BIOS and UEFI by GRUB, without root, loop device or grub-install:
#   deploy/images/disk.sh IMAGE MIB ROOT     ROOT holds boot/grub/grub.cfg and what that loads
# GPT: BIOS boot 1 MiB, EFI system 4 MiB, ext4 labelled skroot with a copy of ROOT up to 1 MiB before the end.
set -eu
PATH=$PATH:/usr/sbin:/sbin
img=${1:?usage: disk.sh IMAGE MIB ROOT} mib=${2:?} tree=${3:?}
work=$(mktemp -d "${img%/*}/disk.XXXXXX")
trap 'rm -rf "$work"' EXIT
bios=2048 esp=4096 root=12288 # in sectors
rootsize=$((mib * 2048 - root - 2048))
truncate -s "${mib}M" "$img"
sfdisk -q "$img" <<END
label: gpt
start=$bios, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=$esp, size=8192, type=uefi, name=esp
start=$root, size=$rootsize, type=linux, name=root
END
mke2fs -q -F -t ext4 -L skroot -d "$tree" -E "offset=$((root * 512)),root_owner=0:0" "$img" $((rootsize / 2))k

# BIOS: GRUB's core in the BIOS-boot partition, its boot sector in LBA 0. What grub-bios-setup would do with a loop device:
# the boot sector gets the core's sector at 0x5C, the core's first sector that of its rest at 0x1F4.
grub-mkimage -O i386-pc -o "$work/core.img" -p '(,gpt3)/boot/grub' biosdisk part_gpt ext2 linux normal serial terminal echo
put() { # put OFFSET OCTAL... : octets into the image
	at=$1
	shift
	# shellcheck disable=SC2059
	printf "$*" | dd of="$img" bs=1 seek="$at" conv=notrunc status=none
}
[ "$(stat -c %s "$work/core.img")" -le $((2048 * 512)) ] || { echo "disk.sh: core.img is too large" >&2; exit 1; }
dd if=/usr/lib/grub/i386-pc/boot.img of="$img" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$img" bs=512 seek=$bios conv=notrunc status=none
put $((0x5C)) '\000\010\000\000\000\000\000\000'               # 2048
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

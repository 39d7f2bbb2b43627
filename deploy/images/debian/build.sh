#!/bin/sh
# Builds a Debian 12 disk image with cloud-init and sshd that boots from BIOS and UEFI, as root:
#   deploy/images/debian/build.sh OUT      makes OUT/debian.img, 1.25 GiB, sparse
# Needs: debootstrap fdisk mtools e2fsprogs grub-pc-bin grub-efi-amd64-bin grub-common. Downloads about 200 MB of packages.
set -eu
cd "$(dirname "$0")/../../.."
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "build.sh: needs root (debootstrap)" >&2; exit 1; }
out=${1:?usage: build.sh OUT}
mkdir -p "$out"
out=$(cd "$out" && pwd)
# The mirror of this machine, as its own package lists name it.
mirror=${SKERRY_DEBIAN_MIRROR:-$(apt-cache policy | awk '/^ *[0-9-]+ http.* bookworm\/main amd64/{print $2; exit}')}
[ -n "$mirror" ] || { echo "build.sh: no Debian 12 mirror known: set SKERRY_DEBIAN_MIRROR" >&2; exit 1; }
work=$(mktemp -d "$out/debian.XXXXXX")
trap 'umount "$work/root/proc" 2>/dev/null || :; rm -rf "$work"' EXIT
img=$work/debian.img root=$work/root

# In two steps: debootstrap resolves plainly, apt brings cloud-init's Python. "minbase" keeps the image small.
debootstrap --variant=minbase --include=systemd-sysv,iproute2,udev,ca-certificates bookworm "$root" "$mirror" >"$out/debian.log" 2>&1 ||
	{ tail -20 "$out/debian.log" >&2; exit 1; }
cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || :
# No service may start in the chroot.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
chroot "$root" sh -eu >>"$out/debian.log" 2>&1 <<'END' || { tail -20 "$out/debian.log" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends linux-image-amd64 initramfs-tools openssh-server sudo netplan.io cloud-init cloud-guest-utils e2fsprogs
printf 'datasource_list: [ NoCloud, None ]\n' >/etc/cloud/cloud.cfg.d/90-skerry.cfg
# One renderer, or cloud-init takes the first of several and networkd waits for cards that are not its own.
printf 'system_info:\n  network:\n    renderers: [ netplan ]\n' >/etc/cloud/cloud.cfg.d/91-skerry-network.cfg
printf 'LABEL=skroot / ext4 errors=remount-ro 0 1\n' >/etc/fstab
# What a machine needs to reach its own disk and card, whichever it is.
printf 'virtio_pci\nvirtio_blk\nvirtio_net\n' >>/etc/initramfs-tools/modules
update-initramfs -u
systemctl enable ssh serial-getty@ttyS0 systemd-networkd
rm -f /etc/ssh/ssh_host_* /etc/machine-id /usr/sbin/policy-rc.d /etc/apt/apt.conf.d/*proxy*
: >/etc/machine-id
apt-get clean
rm -rf /var/lib/apt/lists/*
END
umount "$root/proc"
mkdir -p "$root/boot/grub"
kernel=$(cd "$root/boot" && ls vmlinuz-* | sort -V | tail -1)
cat >"$root/boot/grub/grub.cfg" <<END
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set gfxpayload=text
linux /boot/$kernel root=LABEL=skroot ro console=tty0 console=ttyS0
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
END

sh deploy/images/disk.sh "$img" 1280 "$root"
mv "$img" "$out/debian.img"
echo "$out/debian.img"

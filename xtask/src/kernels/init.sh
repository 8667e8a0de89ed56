#!/busybox sh
# The first process of a virtual machine of `cargo xtask kernels`.
/busybox mkdir -p /proc /sys /dev /run /tmp /bin /usr/sbin /root
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sysfs /sys
/busybox mount -t devtmpfs devtmpfs /dev
/busybox mount -t tmpfs tmpfs /run
/busybox mount -t tmpfs tmpfs /tmp
/busybox mount -t bpf bpf /sys/fs/bpf
/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NETFAST_BIN=/usr/bin/netfast
for module in /modules/*; do insmod "$module"; done
ip link set lo up
/usr/bin/xtask kernels --guest 2>&1
echo "@netfast end"
# QEMU's -no-reboot makes an end of it.
reboot -f

#!/bin/sh
# Runs in the tool chain's own root (image/kernel.py): Debian's source and /recipe/config become /out/bzImage.
# Whatever the kernel would take from the machine it is built on is fixed here.
set -eu
export LC_ALL=C TZ=UTC HOME=/nonexistent PATH=/usr/bin
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_USER=ephemeralml KBUILD_BUILD_HOST=ephemeralml
umask 022

build() {
    make --directory /build ARCH=x86_64 CC=gcc-14 HOSTCC=gcc-14 "$@"
}

case $1 in
configure)
    # Debian's alternatives, which only dpkg would set up.
    ln -s mawk /usr/bin/awk
    mkdir /build /out
    tar --extract --no-same-owner --strip-components=1 --directory /build --file /usr/src/linux-source-6.12.tar.xz
    # Two virtio-vsock drivers face each other on Nitro, and each stops receiving while its own replies wait: a
    # deadlock under load. AWS takes that out of its own kernel; here its one condition is made to hold always.
    vsock=/build/net/vmw_vsock/virtio_transport.c
    test "$(grep -c 'return val < virtqueue_get_vring_size(vq);' $vsock)" = 1
    sed -i 's/return val < virtqueue_get_vring_size(vq);/return true;/' $vsock
    build KCONFIG_ALLCONFIG=/recipe/config allnoconfig
    cp /build/.config /out/config
    ;;
compile)
    build --jobs "$(nproc)" bzImage
    cp /build/arch/x86/boot/bzImage /out/
    ;;
esac

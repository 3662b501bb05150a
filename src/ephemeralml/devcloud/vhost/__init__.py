"""Devices of a virtual machine, served to QEMU over vhost-user: the vsock and the Nitro Secure Module."""

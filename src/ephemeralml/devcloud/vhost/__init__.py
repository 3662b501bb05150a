"""Virtual devices for QEMU: the back-ends of vhost-user, a vsock and a Nitro Security Module.

Written from the virtio 1.3 specification (OASIS, "virtio" below) and QEMU's docs/interop/vhost-user.rst ("vhost-user").
A guest is whoever it likes to be: what it can influence is bounded, and whatever it breaks is its own device.
"""

from __future__ import annotations

from ephemeralml.devcloud.vhost.backend import Backend, Device
from ephemeralml.devcloud.vhost.nsm import NsmDevice
from ephemeralml.devcloud.vhost.violation import DeviceViolationError
from ephemeralml.devcloud.vhost.vsock import VsockDevice

__all__ = ["Backend", "Device", "DeviceViolationError", "NsmDevice", "VsockDevice"]

"""What ends the service of a guest's device, or of QEMU's connection to it."""

from __future__ import annotations

from ephemeralml.errors import EphemeralMLError


class DeviceViolationError(EphemeralMLError):
    """A ring, a message or a memory region that the specification does not allow.

    ``vhost.message``, ``vhost.memory``: the front-end's, whose connection ends. ``vhost.ring``: the guest's, whose ring
    is served no more until it is set up again.
    """

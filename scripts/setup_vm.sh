#!/bin/sh
# Get QEMU and its firmware for `--platform vm` from Debian's packages, by hash, into the cache; nothing on the system
# is touched. Prints where it is. Run it again at will: what is there is not fetched again.
#   scripts/setup_vm.sh [PYTHON]        (EPHEMERALML_CACHE, EPHEMERALML_DEBIAN_MIRROR)
set -eu
exec "${1:-.venv/bin/python}" -m ephemeralml.devcloud.qemu

"""From measured configuration to a model in memory: manifest, key release, artifacts, engine; any doubt stops it."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.attestation import AttestationDocument, KeyReleaseBinding, is_nitro_root
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.enclave.key_release import KeyRequest
from ephemeralml.enclave.kms_direct import DirectKms
from ephemeralml.enclave.registers import seal_registers
from ephemeralml.enclave.security_module import SecurityModule
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.errors import PackageError
from ephemeralml.inference import Encoder, load_library
from ephemeralml.package import Manifest, open_package

_BOOT_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """An enclave ready to serve. `stages` holds the milliseconds of each step of the boot.

    `production` is what its own evidence says: AWS's root vouches for it, and it is not in debug mode.
    """

    configuration: Configuration
    module: SecurityModule
    manifest: Manifest
    signed_manifest: bytes
    encoder: Encoder
    boot_id: bytes
    receipt_key: Ed25519PrivateKey = field(repr=False)
    production: bool
    stages: dict[str, float]


class _Stopwatch:
    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = round((now - self._last) * 1000, 3)
        self._last = now


def boot(configuration: Configuration, *, module: SecurityModule, upstream: Upstream) -> Booted:
    """Raises `PackageError`, `KeyReleaseError`, `ModelError`, `TransportError`, `SecurityModuleError`
    and `PlatformError`. The registers and the clock are settled before the key is asked for.
    """
    watch = _Stopwatch()
    with ThreadPoolExecutor(1) as background:
        # An RSA key takes 50 ms without the interpreter's lock: make it while the manifest comes. The engine's library
        # is loaded while the key is.
        request = background.submit(KeyRequest)
        boot_id = sha256(module.random() + os.urandom(32)).digest()[:_BOOT_ID_BYTES]
        signed = upstream.manifest()
        manifest = Manifest.verify(signed, owner=configuration.model_owner)
        if configuration.model_id not in {None, manifest.model_id}:
            raise PackageError(
                f"the package is the model {manifest.model_id!r}, this enclave runs {configuration.model_id!r} only: "
                "the host offers another package",
                code="manifest.model_id",
            )
        if manifest.version < configuration.minimum_model_version:
            raise PackageError(
                f"the package is version {manifest.version} of {manifest.model_id!r}, this enclave runs "
                f"{configuration.minimum_model_version} or later: the host offers an old package",
                code="manifest.rollback",
            )
        # Before the key is asked for, so that the key's policy may name the model.
        seal_registers(module, manifest=manifest.digest, configuration=configuration.digest)
        watch.lap("manifest")
        library = background.submit(load_library, manifest.spec.precision)
        key = request.result()
        binding = KeyReleaseBinding(package=manifest.package_id, model=manifest.digest)
        document = module.attest(public_key=key.public_key_der, user_data=binding.to_user_data())
        watch.lap("attestation")
        release = DirectKms(upstream, roots=roots).release if (roots := configuration.kms_roots) else upstream.release
        dek = key.open(release(manifest.key, document))
        watch.lap("key_release")
        library.result()
    files = open_package(manifest, source=upstream, dek=dek)
    del dek
    watch.lap("fetch_and_decrypt")
    evidence = AttestationDocument.parse(document)
    encoder = Encoder.from_buffers(files, spec=manifest.spec)
    watch.lap("load")
    return Booted(
        configuration=configuration,
        module=module,
        manifest=manifest,
        signed_manifest=signed,
        encoder=encoder,
        boot_id=boot_id,
        receipt_key=Ed25519PrivateKey.generate(),
        production=is_nitro_root(evidence.cabundle[0]) and not evidence.debug,
        stages=watch.stages,
    )

"""Rotation under load: what runs is replaced, and nobody who asks meanwhile sees an error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from load import Load
from relaying import relaying

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.client import Client, EmbedResult
from ephemeralml.devcloud.world import World, WorldError, run
from ephemeralml.errors import AttestationError, TransportError
from ephemeralml.inference import Encoder
from ephemeralml.package import FolderSource, Manifest
from ephemeralml.receipts import verify_bundle
from ephemeralml.session.transport import Address, connect

PATIENCE = 60


def verified(result: EmbedResult, policy: Policy) -> bytes:
    """The digest of the document that vouches for the answer, once its bundle passed `policy` offline."""
    claims = verify_bundle(result.bundle.to_bytes(), policy=policy).receipt.claims
    assert claims == result.receipt.claims
    return claims.attestation_doc_hash


@pytest.mark.parametrize("gap", [False, True], ids=["new one ready before", "nobody there for a while"])
def test_an_enclave_is_replaced_under_load(
    tmp_path: Path, tiny_model: Path, deploy: Callable[..., Any], caplog: pytest.LogCaptureFixture, *, gap: bool
) -> None:
    with deploy(tmp_path, tiny_model, {}) as deployment, ExitStack() as stack:
        second_at = Address("unix", path=f"{tmp_path}/second")
        relay, address = stack.enter_context(relaying(Address("unix", path=f"{tmp_path}/enclave")))
        clients = [stack.enter_context(Client(address, policy=deployment.policy, timeout=PATIENCE)) for _ in range(2)]
        with Load(clients, threads=8) as load:
            load.more(5)
            if not gap:
                stack.enter_context(deployment.start(second_at))
                await_serving(second_at)
            relay.enclave = second_at
            deployment.enclave.process.terminate()
            assert deployment.enclave.wait() == 0
            if gap:
                time.sleep(0.3)
                stack.enter_context(deployment.start(second_at))
            load.more(5)
        assert load.raised == []
        # Told inside the session, never cut off.
        ends = [message for message in caplog.messages if message.endswith("attesting again")]
        assert ends
        assert all(message.startswith("the enclave ended the session: ") for message in ends)
        assert [client.attestations for client in clients] == [2, 2]
        documents = set()
        for text, result in (pair for results in load.results for pair in results):
            np.testing.assert_allclose(result.vectors, deployment.encoder.encode([text]), atol=1e-5)
            documents.add(verified(result, deployment.policy))
        # Two sessions for each client, and no more.
        assert len(documents) == 4


def test_new_clients_come_in_without_an_error_while_an_enclave_is_replaced(
    tmp_path: Path, tiny_model: Path, deploy: Callable[..., Any]
) -> None:
    """Each with its own session, so that many are in their handshakes when the enclave stops."""
    with deploy(tmp_path, tiny_model, {}) as deployment, ExitStack() as stack:
        second_at = Address("unix", path=f"{tmp_path}/second")
        relay, address = stack.enter_context(relaying(Address("unix", path=f"{tmp_path}/enclave")))

        class Fresh(Client):
            def embed(self, texts: Any) -> EmbedResult:
                with Client(address, policy=deployment.policy, timeout=PATIENCE) as client:
                    return client.embed(texts)

        with Load([Fresh(address, policy=deployment.policy)], threads=8) as load:
            load.more(3)
            stack.enter_context(deployment.start(second_at))
            await_serving(second_at)
            relay.enclave = second_at
            deployment.enclave.process.terminate()
            assert deployment.enclave.wait() == 0
            load.more(3)
        assert load.raised == []


# A new key.


def test_a_package_moves_to_a_new_key(tmp_path: Path, tiny_model: Path) -> None:
    """By the commands an owner and a host use."""
    with ExitStack() as stack:
        world = World(tmp_path)
        stack.callback(world.kms.stop)
        owner, key = world.environment("owner"), str(tmp_path / "owner.key")
        configuration, measured = tmp_path / "enclave.json", tmp_path / "measurements.json"
        old, new = tmp_path / "package", tmp_path / "package-2"
        run("keygen", key)
        configuration.write_text(json.dumps({"model_owner": Path(f"{key}.pub").read_text().strip()}))
        measured.write_text(run("enclave", "measure", str(configuration)))
        create = ("kms", "create-key", "--measurements", str(measured), "--endpoint", world.kms_url)
        from_key, to_key = (run(*create, environment=owner).strip() for _ in range(2))
        kms = ("--kms-endpoint", world.kms_url)
        packed = run(
            *("pack", str(tiny_model), str(old), "--key", key, "--version", "1", "--model-id", "tiny"),
            *("--kms-key", from_key, *kms),
            environment=owner,
        )
        digest = packed.split()[-1]
        rewrap = ("rewrap", str(old), str(new), "--from", digest, "--key", key, "--kms-key", to_key, *kms)

        # Neither the owner nor the host may move a data key before the keys' policies say so.
        for profile in ("owner", "host"):
            with pytest.raises(WorldError, match=r"\[kms\.access_denied\]"):
                run(*rewrap, environment=world.environment(profile))
        run("keygen", str(tmp_path / "other.key"))
        with pytest.raises(WorldError, match=r"\[manifest\.owner\]"):
            run(*(part if part != key else str(tmp_path / "other.key") for part in rewrap), environment=owner)
        with pytest.raises(WorldError, match=r"\[package\.digest\]"):
            run(*(part if part != digest else digest[::-1] for part in rewrap), environment=owner)
        assert not new.exists()
        client = stack.enter_context(keys_of(world))
        release = {arn: json.loads(client.get_key_policy(KeyId=arn)["Policy"]) for arn in (from_key, to_key)}
        allow_move(client, release, from_key, "kms:ReEncryptFrom")
        with pytest.raises(WorldError, match=r"\[kms\.access_denied\]"):
            run(*rewrap, environment=owner)
        allow_move(client, release, to_key, "kms:ReEncryptTo")
        said = run(*rewrap, environment=owner)

        before, after = (Manifest.verify(FolderSource(folder).manifest(), owner=None) for folder in (old, new))
        assert (after.version, after.key.key_arn) == (2, to_key)
        assert after.digest.hex() in said
        assert "version 1, now version 2" in said
        assert before.package_id == after.package_id
        expected = Encoder.from_folder(tiny_model).encode(["a text"])
        policies = {manifest.version: policy_for(world, measured, manifest) for manifest in (before, after)}
        # Both open, each under its own key;
        for package, version in ((old, 1), (new, 2)):
            with world.host(package, configuration) as host:
                address = host.event("ready")["relay"]
                with Client(address, policy=policies[version]) as asking:
                    np.testing.assert_allclose(asking.embed(["a text"]).vectors, expected, atol=1e-5)
                with pytest.raises(AttestationError):
                    Client(address, policy=policies[3 - version]).embed(["a secret"])
        # and once the old key releases nothing any more, the new package alone.
        release[from_key]["Statement"] = [
            statement for statement in release[from_key]["Statement"] if "kms:Decrypt" not in statement["Action"]
        ]
        client.put_key_policy(KeyId=from_key, Policy=json.dumps(release[from_key]))
        with world.host(old, configuration) as host, pytest.raises(WorldError, match=r"kms\.access_denied"):
            host.event("ready")
        with world.host(new, configuration) as host:
            host.event("ready")


@contextmanager
def keys_of(world: World) -> Iterator[Any]:
    """boto3's KMS client with the owner's credentials."""
    with pytest.MonkeyPatch.context() as patched:
        # A profile by name goes before keys in the environment, where another deployment may have put its own.
        patched.setenv("AWS_SHARED_CREDENTIALS_FILE", world.environment("owner")["AWS_SHARED_CREDENTIALS_FILE"])
        session = boto3.session.Session(profile_name="owner")
        client = session.client("kms", endpoint_url=world.kms_url, region_name="us-east-1")
    try:
        yield client
    finally:
        client.close()


def allow_move(client: Any, policies: dict[str, Any], arn: str, action: str) -> None:
    """As docs/rotate.md says: the owner, this package alone."""
    owner = policies[arn]["Statement"][0]["Principal"]
    condition = {"StringEquals": {"kms:EncryptionContext:ephemeralml:model": "tiny"}}
    statement = {"Effect": "Allow", "Principal": owner, "Action": action, "Resource": "*", "Condition": condition}
    # The printed policy denies it to all but enclaves: that is lifted for the move, for Decrypt it stays.
    kept = [
        {**item, "Action": "kms:Decrypt"} if item["Effect"] == "Deny" else item for item in policies[arn]["Statement"]
    ]
    policy = {**policies[arn], "Statement": [*kept, statement]}
    client.put_key_policy(KeyId=arn, Policy=json.dumps(policy))


def policy_for(world: World, measured: Path, manifest: Manifest) -> Policy:
    pcrs = json.loads(measured.read_text())
    measurements = Measurements(**{f"pcr{index}": bytes.fromhex(pcrs[f"PCR{index}"]) for index in range(3)})
    root = (world.root / "root.der").read_bytes()
    return Policy(measurements=[measurements], models=[manifest.digest], extra_roots=[root])


def await_serving(address: Address) -> None:
    """Until an enclave has its model in memory and listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connect(address, timeout=PATIENCE).close()
        except TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return

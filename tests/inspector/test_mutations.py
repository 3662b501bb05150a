"""Random damage, signed again or not: Python and the page must see the same thing in it."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from browser import Inspector, python_outcome
from bundles import MADE, World, seal
from samples import OWNER

from ephemeralml.codec import cbor, cose
from ephemeralml.devcloud.root import Chain
from ephemeralml.errors import ReceiptError
from ephemeralml.receipts import Bundle

BATCH = 200


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three bit flips, byte changes, inserts, deletes, repeats or truncations."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, span = rng.randrange(len(result) + 1), rng.choice((1, 1, 2, 4, 16))
        match rng.randrange(6):
            case 0 | 1 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 2:
                result[at : at + span] = rng.randbytes(len(result[at : at + span]))
            case 3:
                result[at:at] = rng.choice((rng.randbytes(span), bytes(result[at : at + span])))
            case 4:
                del result[at : at + span]
            case _ if rng.randrange(8) == 0:
                del result[at:]
            case _:
                pass
    return bytes(result)


class Damage:
    """Makes bundles with damage somewhere, most of it signed again, so that it gets far in."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.good = Bundle.from_bytes(world.bundle())
        self.claims = cose.parse(self.good.receipt, tagged=True, limit=1 << 16).payload
        self.chain: Chain = world.root.issue_chain(module_id="i-0-enc0", now=MADE)
        payload: Any = cbor.decode_foreign(cose.parse(world.document, tagged=False, limit=1 << 15).payload)
        self.fields = {**payload, "certificate": self.chain.certificate, "cabundle": list(self.chain.cabundle)}

    def _document(self, payload: bytes | None = None, **changes: object) -> bytes:
        body = cbor.encode({**self.fields, **changes}) if payload is None else payload
        return cose.sign(body, self.chain.key, protected={cose.ALG: cose.ES384}, tagged=False)

    def _mutated(self, data: bytes) -> bytes:
        return mutate(data, self.rng)

    def case(self) -> tuple[bytes, bytes]:
        """A bundle and the policy to judge it by."""
        policy = self.world.policy.to_json()
        while True:
            with suppress(ReceiptError):
                match self.rng.randrange(10):
                    case 0:
                        return self._mutated(self.good.to_bytes()), policy.encode()
                    case 1:
                        parts = {"receipt": self._mutated(self.good.receipt)}
                    case 2:
                        parts = {"document": self._mutated(self.good.document)}
                    case 3:
                        parts = {"manifest": self._mutated(self.good.manifest)}
                    case 4:
                        parts = {"receipt": seal(self._mutated(self.claims))}
                    case 5:
                        signed = cose.sign(
                            self._mutated(self.world.manifest.to_payload()), OWNER, protected={1: -8}, tagged=True
                        )
                        parts = {"manifest": signed}
                    case 6:
                        parts = {"document": self._document(self._mutated(cbor.encode(self.fields)))}
                    case 7:
                        parts = {"document": self._document(certificate=self._mutated(self.chain.certificate))}
                    case 8:
                        bundle = list(self.chain.cabundle)
                        place = self.rng.randrange(len(bundle))
                        bundle[place] = self._mutated(bundle[place])
                        parts = {"document": self._document(cabundle=bundle)}
                        if place == 0:
                            roots = {"extra_roots": [base64.b64encode(bundle[0]).decode()]}
                            policy = json.dumps(json.loads(policy) | roots)
                    case _:
                        return self.good.to_bytes(), self._mutated(policy.encode())
                return dataclasses.replace(self.good, **parts).to_bytes(), policy.encode()


def compare(inspector: Inspector, world: World, *, rounds: int, seed: int) -> Counter[str]:
    damage = Damage(world, seed)
    codes: Counter[str] = Counter()
    for _ in range(0, rounds, BATCH):
        cases = [damage.case() for _ in range(BATCH)]
        for (bundle, policy), shown in zip(cases, inspector.judge(cases), strict=True):
            expected = python_outcome(bundle, policy)
            assert shown.shape == expected.shape, f"{bundle.hex()} under {policy.hex()}"
            codes[shown.code] += 1
    return codes


def test_damage_is_seen_alike(inspector: Inspector, world: World) -> None:
    codes = compare(inspector, world, rounds=600, seed=1)
    # It reached every step, and some of it did no harm.
    assert {"", "BUNDLE_MALFORMED", "signature.invalid", "chain.certificate", "chain.invalid"} <= codes.keys()
    assert {"manifest.malformed", "manifest.signature", "SIG_FAILED", "PAYLOAD_NOT_MAP", "policy.json"} <= codes.keys()


@pytest.mark.slow
def test_much_damage_is_seen_alike(inspector: Inspector, world: World) -> None:
    assert len(compare(inspector, world, rounds=20_000, seed=2)) > 30

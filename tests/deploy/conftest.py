"""Stacks of the template: of one release, and while a second one rolls out."""

from __future__ import annotations

import pytest
from cloudformation import ACCOUNT, Stack


@pytest.fixture(scope="session")
def parameters() -> dict[str, str]:
    """What has no default."""
    return {
        "KeyAdministratorArn": f"arn:aws:iam::{ACCOUNT}:role/key-administrator",
        "ModelOwnerArn": f"arn:aws:iam::{ACCOUNT}:user/model-owner",
        "Pcr0": "a0" * 48,
        "Pcr1": "a1" * 48,
        "Pcr2": "A2" * 48,
        "RelayClients": "198.51.100.0/24",
        "ReleaseUrl": "https://example.org/ephemeralml-0.1.0.tar.gz",
        "ReleaseSha256": "5e" * 32,
    }


@pytest.fixture(scope="session")
def stack(parameters: dict[str, str]) -> Stack:
    """The stack of one release."""
    return Stack(parameters)


@pytest.fixture(scope="session")
def rolling(parameters: dict[str, str]) -> Stack:
    """The stack while a second release rolls out."""
    return Stack({**parameters, **{f"NextPcr{index}": f"b{index}" * 48 for index in range(3)}})

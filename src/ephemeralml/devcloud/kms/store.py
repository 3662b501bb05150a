"""Keys at rest: one SQLite file, readable by its owner alone."""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ephemeralml.errors import ConfigurationError

_COLUMNS = "key_id, arn, material, policy, description, state, created_at"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    key_id TEXT PRIMARY KEY,
    arn TEXT NOT NULL UNIQUE,
    material BLOB NOT NULL CHECK (length(material) = 32),
    policy TEXT NOT NULL,
    description TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS grants (
    grant_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES keys,
    grantee TEXT NOT NULL,
    operations TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A symmetric KMS key: 32 bytes of material, the policy as it was given, creation in seconds since 1970."""

    key_id: str
    arn: str
    material: bytes = field(repr=False)
    policy: str
    description: str
    state: str
    created_at: float


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """What one principal may do with a key besides its policy; operations by their names in the API."""

    grant_id: str
    grantee: str
    operations: tuple[str, ...]


class KeyStore:
    """The keys of one server, by key id, and their grants. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open or create the file with mode 0600. Raises `ConfigurationError` when it cannot be used."""
        self._lock = threading.Lock()
        try:
            # The mode is set before a key is in it; SQLite gives its journal the same mode.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the KMS key store {path} cannot be opened: {error}", code="kms.store") from error
        try:
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._connection.close()
            raise ConfigurationError(f"the KMS key store {path} cannot be used: {error}", code="kms.store") from error

    def add(self, key: StoredKey) -> None:
        """Keep a new key; it is on disk when this returns."""
        row = (key.key_id, key.arn, key.material, key.policy, key.description, key.state, key.created_at)
        with self._lock:
            self._connection.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608

    def get(self, key_id: str) -> StoredKey | None:
        """The key with that id (not an ARN), if there is one."""
        with self._lock:
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM keys WHERE key_id = ?", (key_id,)).fetchone()  # noqa: S608
        return None if row is None else StoredKey(*row)

    def set_policy(self, key_id: str, policy: str) -> None:
        """Replace the key's policy."""
        with self._lock:
            self._connection.execute("UPDATE keys SET policy = ? WHERE key_id = ?", (policy, key_id))

    def add_grant(self, key_id: str, grant: StoredGrant) -> None:
        """Keep a new grant."""
        row = (grant.grant_id, key_id, grant.grantee, " ".join(grant.operations))
        with self._lock:
            self._connection.execute(
                "INSERT INTO grants (grant_id, key_id, grantee, operations) VALUES (?, ?, ?, ?)", row
            )

    def grants(self, key_id: str) -> list[StoredGrant]:
        """The key's grants, the oldest first."""
        query = "SELECT grant_id, grantee, operations FROM grants WHERE key_id = ? ORDER BY rowid"
        with self._lock:
            rows = self._connection.execute(query, (key_id,)).fetchall()
        return [StoredGrant(grant_id, grantee, tuple(operations.split())) for grant_id, grantee, operations in rows]

    def remove_grant(self, key_id: str, grant_id: str) -> bool:
        """Forget a grant; whether there was one."""
        with self._lock:
            done = self._connection.execute("DELETE FROM grants WHERE key_id = ? AND grant_id = ?", (key_id, grant_id))
        return done.rowcount > 0

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock:
            self._connection.close()

"""The latest receipts of a gateway, in SQLite; the evidence they share is kept once."""

from __future__ import annotations

import os
import sqlite3
import threading

from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.receipts import Bundle, Receipt

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS evidence (
    document_hash BLOB PRIMARY KEY,
    document BLOB NOT NULL,
    manifest BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    receipt BLOB NOT NULL,
    document_hash BLOB NOT NULL REFERENCES evidence
) STRICT;
CREATE INDEX IF NOT EXISTS receipts_by_document ON receipts (document_hash);
"""
# Keeping one is one statement, so one transaction, and one moment in which the interpreter goes to other threads.
_VIEW = """
CREATE TEMP VIEW kept AS SELECT id, receipt, document_hash, document, manifest
    FROM receipts JOIN evidence USING (document_hash);
CREATE TEMP TRIGGER keep INSTEAD OF INSERT ON kept BEGIN
    INSERT INTO receipts (id, receipt, document_hash) VALUES (NEW.id, NEW.receipt, NEW.document_hash);
    DELETE FROM receipts WHERE number <= (SELECT max(number) FROM receipts) - {keep};
    INSERT OR IGNORE INTO evidence VALUES (NEW.document_hash, NEW.document, NEW.manifest);
END;
-- As often as a session begins.
CREATE TEMP TRIGGER forget AFTER INSERT ON main.evidence BEGIN
    DELETE FROM evidence WHERE document_hash NOT IN (SELECT document_hash FROM receipts);
END;
"""
_KEEP = "INSERT INTO kept (id, receipt, document_hash, document, manifest) VALUES (?, ?, ?, ?, ?)"
_FIND = "SELECT receipt, document, manifest FROM kept WHERE id = ?"
_CODE = "gateway.receipts"
MEMORY = ":memory:"


class Receipts:
    """At most `keep` receipts, the oldest dropped first, in the file `path` or `MEMORY`. Thread-safe.

    It holds no texts and no vectors, and not the salts either: from it alone nobody can try texts against the hashes.
    """

    def __init__(self, path: str | os.PathLike[str] = MEMORY, *, keep: int) -> None:
        """Open or create the file with mode 0600. Raises `ConfigurationError` when it cannot be used."""
        self._lock = threading.Lock()
        try:
            if path != MEMORY:
                # Before there is anything in it; SQLite gives its journal the same mode.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the receipts' file {path} cannot be opened: {error}", code=_CODE) from error
        try:
            self._connection.executescript(_SCHEMA + _VIEW.format(keep=keep))
        except sqlite3.Error as error:
            self._connection.close()
            raise ConfigurationError(f"the receipts' file {path} cannot be used: {error}", code=_CODE) from error

    def add(self, receipt: Receipt, bundle: Bundle) -> str:
        """Keep a verified receipt; returns its id, the SHA-256 of its bytes in hexadecimal.

        Raises `EphemeralMLError` when it cannot be kept, on a full disk for one.
        """
        identifier, evidence = receipt.sha256, receipt.claims.attestation_doc_hash
        row = (identifier, bundle.receipt, evidence, bundle.document, bundle.manifest)
        try:
            with self._lock:
                self._connection.execute(_KEEP, row)
        except sqlite3.Error as error:
            raise EphemeralMLError(f"the gateway cannot keep the receipt: {error}", code=_CODE) from error
        return identifier.hex()

    def get(self, identifier: str) -> Bundle | None:
        """The bundle of that id, if it is kept."""
        try:
            wanted = bytes.fromhex(identifier)
        except ValueError:
            return None
        with self._lock:
            row = self._connection.execute(_FIND, (wanted,)).fetchone()
        return None if row is None else Bundle(receipt=row[0], document=row[1], manifest=row[2])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

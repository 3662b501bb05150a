"""Strict encodings: deterministic CBOR for our own formats, COSE_Sign1 over raw bytes."""

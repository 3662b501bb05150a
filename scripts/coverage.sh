#!/bin/sh
# Branch coverage of the parts whose verdicts others rely on: at least 95 % each.
set -eu
python=$1
"$python" -m coverage run -m pytest -q tests/codec tests/attestation tests/package tests/session tests/receipts
for part in codec attestation package session receipts; do
    printf '%s: ' "$part"
    "$python" -m coverage report --include="src/ephemeralml/$part/*" --fail-under=95 --format=total || {
        "$python" -m coverage report --include="src/ephemeralml/$part/*"
        exit 1
    }
done

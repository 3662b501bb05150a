"""Where each figure begins and ends, in words that stand beside it wherever it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_DIRECT: Final = {
    "local": "this machine's host side and the enclave's process over a Unix socket, which stands where vsock does",
    "vm": "host and the emulated machine over a vsock that two processes on the host carry",
    "nitro": "parent instance and enclave over vsock",
}
_WORDS: Final = {
    "inference": "inside the process: Encoder.encode of one text, from a Python string to its vector",
    "length": "inside the process: Encoder.encode of one text of that many tokens",
    "batch": "inside the process: Encoder.encode of so many texts of 32 tokens in one call",
    "stage/rsa_key": "inside the enclave: the RSA key of one release is made (the boot does that while it waits)",
    "stage/attestation": "inside the enclave: one attestation document from the security module",
    "stage/key_release": "inside the enclave: document and wrapped key to the host's broker, KMS asked, its answer "
    "opened; each key was then seen to open the package",
    "stage/fetch": "{fetch}",
    "stage/decrypt": "inside the enclave: every artifact decrypted from memory, authenticated, its digest checked",
    "stage/deserialise": "inside the process: from the model's files in memory to an engine that runs",
    "stage/tokenizer": "inside the process: from the tokenizer's file in memory to a tokenizer",
    "cold_start/first_answer": "{cold}",
    "cold_start/ready": "spawn of the host's process to its word that the enclave serves",
    "cold_start/attested": "the same, and a client's session: evidence verified, keys agreed",
    "boot": "the enclave's own clock at a real boot, where stages overlap",
    "end_to_end": "one text from Client.embed to its verified answer: sealed, through relay and enclave, receipt "
    "signed and verified; client, relay and enclave share the machine's CPUs on local",
    "beside": "inside the bare-metal process, in turns with end_to_end: Encoder.encode of the same texts",
    "clients": "Client.embed, so many sessions at once, each asking one text after the other; latency of each answer",
    "clients_rate": "verified answers a second, so many sessions at once",
    "session/set_up": "a client's connection, the enclave's fresh document, its verification, keys agreed; no request",
    "session/document": "in the client: one attestation document verified, chain and signature included",
    "receipts/verify": "in the client: one receipt verified, signature and claims",
    "part": "inside the enclave: this part of a sealed request by itself, with the functions that serve one",
    "rtt/direct": "{direct}; so many bytes there and the same back",
    "rtt/relayed": "client over TCP on loopback, the host's relay, the enclave; so many bytes there and the same back",
    "rtt/tcp": "two processes over TCP on loopback; so many bytes there and the same back",
    "stream/direct": "{direct}; one stream in writes of 64 KiB",
    "stream/relayed": "client over TCP on loopback, the host's relay, the enclave; one stream in writes of 64 KiB",
    "stream/tcp": "two processes over TCP on loopback; one stream in writes of 64 KiB",
}
_FETCH: Final = {
    "enclave": "inside the enclave: every encrypted artifact from the host's feed into memory",
    "bare_metal": "inside the process: the model's files from the page cache into memory",
}
_COLD: Final = {
    "enclave": "spawn of `ephemeralml host run` to the first verified answer: relay, enclave, key release, fetch, "
    "decryption, load, attestation by the client, one text. Files are in the page cache",
    "bare_metal": "spawn of the process to its first vector: interpreter, load, one text. Files are in the page cache",
}


def words_for(environment: str, platform: str, names: Sequence[str]) -> dict[str, str]:
    """The boundary of each of these series and figures, once for those that share one."""
    found: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        prefix = next((key for end in range(len(parts), 0, -1) if (key := "/".join(parts[:end])) in _WORDS), None)
        if prefix is not None:
            found[prefix] = _WORDS[prefix].format(
                direct=_DIRECT[platform], fetch=_FETCH[environment], cold=_COLD[environment]
            )
    return found

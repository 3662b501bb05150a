"""What `check` finds: a hole lets the key out, or lets somebody open one; a note is for a person to weigh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_HOLES: Final = {
    "anybody": "it speaks of {0}, and allows {1}; name single users and roles",
    "not_principal": "NotPrincipal allows everybody whom it does not name; list principals",
    "not_action": "NotAction allows whatever it does not name, {0} among it; list actions",
    "unattested": "it allows {0} without a condition that only an attested enclave meets",
    "if_exists": "{0} on {1} holds as well where there is no attestation at all; take IfExists out",
    "wildcard": "{0} is compared with a pattern; name whole values",
    "no_image": "no condition on ImageSha384 (PCR0): any image meets it that has {0}",
    "debug": "{0} may be all zero: a debug enclave, whose memory the host reads",
    "unknown_release": "{0} may be {1}, which is in none of the measurements given",
    "mixed_sets": "its lists let registers of several releases mix; write a statement for each release",
    "partial_set": "it leaves {0} of a release open; ask for the whole set",
    "other_principal": "it allows Decrypt to {0}, which is none of the roles given",
    "reencrypt": "it allows ReEncryptFrom, which moves ciphertexts under another key and knows no attestation",
    "grant": "it allows CreateGrant to {0}: a grant is bound to no enclave",
    "replica": "it allows ReplicateKey to {0}: a replica has a key policy of its own",
    "govern": "it allows {0} to {1}, which also decrypts: the host could lift the conditions or destroy the key",
    "foreign_governor": "{0}, of another account, may change this policy, and so release the key to anybody",
    "grants": "the grant {0} allows {1} to {2}, bound to no enclave; revoke it",
    "grants_unread": "the key's grants were not all read ({0}), and no statement denies release without attestation",
    "shared": "the key is shared through AWS RAM, by a second policy that PutKeyPolicy does not change; unshare it",
}
_NOTES: Final = {
    "condition": "{0} on {1} is not judged here, and trusted for nothing",
    "governor": "{0} may change this policy, and so release the key to anybody",
    "deleted_principal": "{0} is the id of a user or role that was deleted",
    "not_released": "the release with PCR0 {0} gets no key",
    "grants_denied": "the grant {0} to {1} is there, and of no use without attestation",
    "external": "the key's material is of origin {0}: whoever made it may have a copy",
    "multi_region": "a multi-Region key: every replica has a policy of its own, to be checked by its ARN",
    "state": "the key is {0}: KMS refuses every use of it",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: a stable `code`, `where` in the policy (or the key itself), and what to do about it."""

    code: str
    where: str
    message: str

    @property
    def hole(self) -> bool:
        """False for a note."""
        return self.code in _HOLES


def finding(code: str, where: str, *values: object) -> Finding:
    """The finding of that code, with the values its text names."""
    return Finding(code, where, (_HOLES | _NOTES)[code].format(*values))

"""KMS key policies: write one that releases to attested enclaves alone, find the holes in one, explain a refusal."""

from ephemeralml.host.key_policy.build import key_policy
from ephemeralml.host.key_policy.check import check_key, check_policy
from ephemeralml.host.key_policy.denial import likely_cause
from ephemeralml.host.key_policy.findings import Finding

__all__ = ["Finding", "check_key", "check_policy", "key_policy", "likely_cause"]

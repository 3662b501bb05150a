"""KMS key policies: write one that releases to attested enclaves alone, find holes, decide, explain a refusal."""

from ephemeralml.host.key_policy.build import key_policy
from ephemeralml.host.key_policy.check import check_key, check_policy
from ephemeralml.host.key_policy.decision import Release, decide
from ephemeralml.host.key_policy.denial import likely_cause
from ephemeralml.host.key_policy.findings import Finding

__all__ = ["Finding", "Release", "check_key", "check_policy", "decide", "key_policy", "likely_cause"]

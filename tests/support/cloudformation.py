"""The CloudFormation template, with its parameters filled in and its functions resolved, as far as it uses any."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]

TEMPLATE: Final = Path(__file__).parents[2] / "deploy" / "aws" / "ephemeralml.yaml"
ACCOUNT: Final = "111122223333"

_NOTHING: Final = object()
_PSEUDO: Final[Mapping[str, object]] = {
    "AWS::NoValue": _NOTHING,
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "ephemeralml",
    "AWS::URLSuffix": "amazonaws.com",
}


class Stack:
    """One template under one set of parameters; anything it does not know how to resolve is an error."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        # Through JSON: cfn-lint's values remember their line numbers.
        self.template: dict[str, Any] = json.loads(json.dumps(cfn_yaml.load(str(TEMPLATE))))
        declared = self.template["Parameters"]
        assert parameters.keys() <= declared.keys()
        self.parameters = {
            name: str(parameters[name] if name in parameters else declared[name]["Default"]) for name in declared
        }

    def properties(self, resource: str) -> Any:
        """A resource's properties."""
        return self.resolve(self.template["Resources"][resource]["Properties"])

    def rejected(self, parameter: str, value: str) -> bool:
        """Whether the parameter's own constraints refuse this value."""
        return re.fullmatch(self.template["Parameters"][parameter]["AllowedPattern"], value) is None

    def broken_rules(self) -> list[str]:
        """What the template's rules say against these parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self.template["Rules"].values()
            if self._holds(rule["RuleCondition"])
            for assertion in rule["Assertions"]
            if not self._holds(assertion["Assert"])
        ]

    def resolve(self, value: Any) -> Any:
        """The value CloudFormation would see."""
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not _NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            match name:
                case "Ref":
                    return self._reference(argument)
                case "Fn::GetAtt":
                    return self._attribute(*(argument if isinstance(argument, list) else argument.split(".")))
                case "Fn::Sub":
                    return re.sub(r"\$\{([^!}][^}]*)\}", lambda match: self._substituted(match[1]), argument)
                case "Fn::If":
                    condition, yes, no = argument
                    return self.resolve(yes if self._holds(self.template["Conditions"][condition]) else no)
                case "Fn::Base64":
                    return self.resolve(argument)
                case _:
                    assert not name.startswith("Fn::"), name
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not _NOTHING}

    def _holds(self, condition: Any) -> bool:
        ((name, arguments),) = condition.items()
        match name:
            case "Fn::Equals":
                left, right = map(self.resolve, arguments)
                return bool(left == right)
            case "Fn::Not":
                return not self._holds(arguments[0])
            case "Fn::Or":
                return any(map(self._holds, arguments))
        raise AssertionError(name)

    def _reference(self, name: str) -> Any:
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        assert name in self.template["Resources"], name
        return f"ref-{name.lower()}"

    def _attribute(self, resource: str, attribute: str) -> str:
        match self.template["Resources"][resource]["Type"], attribute:
            case "AWS::IAM::Role", "Arn":
                return f"arn:aws:iam::{ACCOUNT}:role/{resource}"
            case "AWS::KMS::Key", "Arn":
                return f"arn:aws:kms:us-east-1:{ACCOUNT}:key/12345678-1234-1234-1234-123456789abc"
            case "AWS::S3::Bucket", "Arn":
                return f"arn:aws:s3:::{self._reference(resource)}"
            case "AWS::EC2::Instance", "PublicIp":
                return "192.0.2.1"
        raise AssertionError((resource, attribute))

    def _substituted(self, name: str) -> str:
        return str(self._attribute(*name.split(".")) if "." in name else self._reference(name))

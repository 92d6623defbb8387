"""The statements of an expanded template: of roles, of managed policies, of resource policies."""

import dataclasses

ACCOUNT = "111122223333"


@dataclasses.dataclass(frozen=True)
class Statement:
    """One statement, with every list spelled out."""

    owner: str
    sid: str
    effect: str
    actions: tuple
    resources: tuple
    # (operator, key, values)
    conditions: tuple
    principal: str = ""

    @property
    def name(self) -> str:
        return f"{self.owner} {self.sid}".strip()


def listed(value: object) -> tuple:
    return tuple(value) if isinstance(value, list) else (value,)


def of_document(owner: str, document: dict) -> list:
    return [
        Statement(
            owner,
            statement.get("Sid", ""),
            statement["Effect"],
            listed(statement["Action"]),
            listed(statement.get("Resource", "*")),
            tuple(
                (operator, key, tuple(map(str, listed(values))))
                for operator, keys in statement.get("Condition", {}).items()
                for key, values in keys.items()
            ),
            str(statement.get("Principal", "")),
        )
        for statement in listed(document["Statement"])
    ]


def of_role(deployment: dict, name: str) -> list:
    """What the role allows and denies: its own policies, and the template's managed policies that it names."""
    properties = deployment["resources"][name]["Properties"]
    found = []
    for policy in properties.get("Policies", []):
        found += of_document(name, policy["PolicyDocument"])
    for managed in of_type(deployment, "AWS::IAM::ManagedPolicy"):
        # CloudFormation makes the name of 24 characters of the logical id.
        if any(f"-{managed[:24]}-" in arn for arn in properties.get("ManagedPolicyArns", [])):
            found += of_managed(deployment, managed)
    return found


def of_managed(deployment: dict, name: str) -> list:
    return of_document(name, deployment["resources"][name]["Properties"]["PolicyDocument"])


def of_permission(deployment: dict, name: str) -> Statement:
    """A statement of a function's resource policy."""
    properties = deployment["resources"][name]["Properties"]
    function = properties["FunctionName"]
    arn = f"arn:aws:lambda:{deployment['region']}:{ACCOUNT}:function:{function}"
    arn = function if function.startswith("arn:") else arn
    conditions = []
    if "SourceArn" in properties:
        conditions.append(("ArnLike", "AWS:SourceArn", (properties["SourceArn"],)))
    if "SourceAccount" in properties:
        conditions.append(("StringEquals", "AWS:SourceAccount", (properties["SourceAccount"],)))
    action, principal = properties["Action"], properties["Principal"]
    return Statement(name, "", "Allow", (action,), (arn,), tuple(conditions), principal)


def of_type(deployment: dict, kind: str) -> list:
    return [name for name, resource in deployment["resources"].items() if resource["Type"] == kind]


def all_statements(deployment: dict) -> list:
    """Every statement once. Trust policies have no resource."""
    found = []
    for name in of_type(deployment, "AWS::IAM::Role"):
        found += [one for one in of_role(deployment, name) if one.owner == name]
        trust = deployment["resources"][name]["Properties"]["AssumeRolePolicyDocument"]
        found += of_document(f"{name} (trust)", trust)
    for name in of_type(deployment, "AWS::IAM::ManagedPolicy"):
        found += of_managed(deployment, name)
    found += [of_permission(deployment, name) for name in of_type(deployment, "AWS::Lambda::Permission")]
    return found

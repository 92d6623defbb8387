#!/usr/bin/env python3
"""Asks IAM's rules for every recorded request of the functions, with their roles.

Input: {"deployments": {function: [{region, resources, names}]}, "calls": [...]}. `names` gives the deployed name of
what a test calls otherwise. Output: {"denied": {call: reasons}, "unused": [[function, action]]}.
"""

import json
import sys

import authorize
import evaluate
import policies

# A function may do this only to what has its tag.
ONLY_OWN = {"rds:DeleteDBSnapshot", "rds:DeleteDBInstance"}


def renamed(value: object, names: dict) -> object:
    if isinstance(value, dict):
        return {key: renamed(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [renamed(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def role_of(function: str) -> str:
    return "".join(part.capitalize() for part in function.split("-")) + "Role"


def tags_that_are_set(calls: list) -> dict:
    """By function: the tags with which it creates things, and which these have when it deletes them."""
    found = {}
    for call in calls:
        for tag in call["request"].get("Tags", []):
            values = found.setdefault(call["function"], {}).setdefault(f"aws:resourcetag/{tag['Key']}".lower(), [])
            values.append(tag["Value"])
    return found


class Simulation:
    def __init__(self, deployments: dict, calls: list) -> None:
        self.deployments, self.tags = deployments, tags_that_are_set(calls)
        self.denied, self.used = {}, set()

    def decide(self, call: dict) -> None:
        """A request is right if the role of one of the function's deployments allows all that it needs."""
        function, reasons = call["function"], []
        for deployment in self.deployments.get(function, []):
            statements = policies.of_role(deployment, role_of(function))
            one = authorize.Call(call | {"request": renamed(call["request"], deployment.get("names", {}))})
            wrong = [self.wrong(need, statements, function, deployment["region"]) for need in one.needs()]
            reasons = [reason for reason in wrong if reason]
            if not reasons:
                self.used |= {(function, need.action) for need in one.needs()}
                return
        named = f"{function} {call['operation']} in {call['region']}"
        self.denied.setdefault(named, reasons or [f"no deployment of {function} is simulated"])

    def keys(self, need: object, function: str, is_own: bool, region: str) -> dict:
        keys = need.keys | {"aws:requestedregion": [need.where or region]}
        source = f"arn:aws:lambda:{region}:{policies.ACCOUNT}:function:fairdrop-{function}"
        keys |= {"lambda:sourcefunctionarn": [source]}
        # What is being created has no tags yet.
        is_creation = "aws:tagkeys" in need.keys and not need.retags
        maker = "snapshot-copy" if ":snapshot:" in need.resource else function
        return keys | (self.tags.get(maker, {}) if is_own and not is_creation else {})

    def wrong(self, need: object, statements: list, function: str, region: str) -> str:
        asked = f"{need.action} on {need.resource}" + (f", asked again in {need.where}" if need.where else "")
        if not evaluate.is_allowed(statements, need.action, need.resource, self.keys(need, function, True, region)):
            return f"{asked}: denied"
        foreign = self.keys(need, function, False, region)
        if need.action in ONLY_OWN and evaluate.is_allowed(statements, need.action, need.resource, foreign):
            return f"{asked}: allowed without the function's tag"
        return ""

    def unused(self) -> list:
        found = set()
        for function, deployments in self.deployments.items():
            for deployment in deployments:
                for one in policies.of_role(deployment, role_of(function)):
                    if one.effect == "Allow":
                        found |= {(function, action) for action in one.actions}
        return sorted(found - self.used)


def main() -> None:
    given = json.load(sys.stdin)
    simulation = Simulation(given["deployments"], given["calls"])
    for call in given["calls"]:
        simulation.decide(call)
    print(json.dumps({"denied": simulation.denied, "unused": simulation.unused()}))


if __name__ == "__main__":
    main()

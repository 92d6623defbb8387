"""Each statement against what AWS publishes about its actions (authorization.json)."""

import json
import pathlib

import arns

DATA = json.loads(pathlib.Path(__file__).with_name("authorization.json").read_text())
# Keys of which a request has several, or that stand for a tag: a service must list them for the action.
PER_ACTION = ("aws:requesttag/", "aws:resourcetag/", "aws:tagkeys")

# Required resource types that a role need not cover, and why.
NOT_COVERED = {
    ("rds:CreateDBInstanceReadReplica", "cluster"): "the source is an instance, not a Multi-AZ cluster",
}


def service_of(action: str) -> dict:
    return DATA["services"].get(action.split(":")[0], {"actions": {}, "resources": {}, "types": {}})


def entries_of(statement: object) -> dict:
    return {name: entry for action in statement.actions for name, entry in published(action).items()}


def published(action: str) -> dict:
    """Names and entries of the published actions that `action`, perhaps with wildcards, stands for."""
    prefix, _, name = action.partition(":")
    return {
        f"{prefix}:{known}": entry
        for known, entry in service_of(action)["actions"].items()
        if arns.matches(name, known, ignore_case=True)
    }


def types_of(action: str, entry: dict, arn: str) -> list:
    """The resource types of `action` that `arn` fits."""
    forms = service_of(action)["resources"]
    return [name for name in entry["on"] if arns.fits(arn, forms[name.rstrip("*")]["arn"])]


def faults(statements: list) -> list:
    found = []
    for statement in statements:
        for action in statement.actions:
            if not published(action):
                found.append(f"{statement.name}: AWS has no action {action}, or extract.py left it out")
        found += faults_of_resources(statement) + faults_of_conditions(statement)
    return found + uncovered(statements)


def faults_of_resources(statement: object) -> list:
    """Every action needs a resource of one of its types, and every resource an action that knows it."""
    if statement.effect == "Deny" or statement.owner.endswith("(trust)"):
        return []
    found = []
    entries = entries_of(statement)
    for arn in statement.resources:
        if not any(arn == "*" or types_of(name, entry, arn) for name, entry in entries.items()):
            found.append(f"{statement.name}: {arn} is no resource of {', '.join(sorted(entries))}")
    for name, entry in entries.items():
        on_all = "*" in statement.resources
        if not on_all and not any(types_of(name, entry, arn) for arn in statement.resources):
            found.append(f"{statement.name}: {name} has none of its resource types {entry['on']}")
        # An action without resource types is allowed on everything or not at all.
        if not entry["on"] and not on_all:
            found.append(f"{statement.name}: {name} supports no resource but *")
    return found


def legal_keys(name: str, entry: dict, statement: object) -> list:
    """For each resource type of the statement, the keys that a request of the action has."""
    resources = service_of(name)["resources"]
    on = {one.rstrip("*") for arn in statement.resources for one in types_of(name, entry, arn)}
    own = [key.lower() for key in entry["keys"]]
    return [own + [key.lower() for key in resources[one]["keys"]] for one in on] or [own]


def is_listed(key: str, keys: list) -> bool:
    """Whether `key` is among `keys`, of which aws:ResourceTag/${TagKey} stands for many."""
    return any(key == known or ("${" in known and key.startswith(known.split("${")[0])) for known in keys)


def type_of_key(key: str, statement: object) -> str:
    known = {}
    for action in statement.actions:
        known |= {name.lower(): kind for name, kind in service_of(action)["types"].items()}
    known |= {name.lower(): kind for name, kind in DATA["global"].items()}
    exact = known.get(key)
    return exact or next((kind for name, kind in known.items() if is_listed(key, [name])), "String")


def faults_of_conditions(statement: object) -> list:
    found = []
    global_keys = [key.lower() for key in DATA["global"]]
    for operator, written, _ in statement.conditions:
        key = written.lower()
        is_global = key in global_keys and not key.startswith(PER_ACTION)
        for name, entry in ({} if is_global else entries_of(statement)).items():
            if not all(is_listed(key, keys) for keys in legal_keys(name, entry, statement)):
                found.append(f"{statement.name}: a request of {name} has no key {written}")
        has_set = operator.startswith(("ForAllValues:", "ForAnyValue:"))
        is_many = type_of_key(key, statement).startswith("ArrayOf")
        if is_many and not has_set and operator != "Null":
            found.append(f"{statement.name}: {written} has several values: {operator} needs a set operator")
        if has_set and not is_many:
            found.append(f"{statement.name}: {written} has one value: {operator} may be true without it")
        # ForAllValues is true if the request has no such key.
        if operator.startswith("ForAllValues:") and statement.effect == "Allow" and not requires(statement, key):
            found.append(f"{statement.name}: {operator} allows requests without {written}")
    return found


def requires(statement: object, key: str) -> bool:
    """Whether another condition of the statement fails if a request lacks `key`."""
    for operator, written, values in statement.conditions:
        if operator == "Null" and written.lower() == key and values == ("false",):
            return True
        is_strict = not operator.endswith("IfExists") and not operator.startswith(("ForAllValues:", "Null"))
        if key == "aws:tagkeys" and is_strict and written.lower().startswith("aws:requesttag/"):
            return True
    return False


def uncovered(statements: list) -> list:
    """A request names a resource of each required type, and all of them must be allowed."""
    found = []
    allowed = [one for one in statements if one.effect == "Allow" and not one.owner.endswith("(trust)")]
    for owner in dict.fromkeys(one.owner for one in allowed):
        of_owner = [one for one in allowed if one.owner == owner]
        for name, entry in {name: entry for one in of_owner for name, entry in entries_of(one).items()}.items():
            granted = {
                kind
                for one in of_owner
                if any(name in published(action) for action in one.actions)
                for arn in one.resources
                for kind in types_of(name, entry, arn)
            }
            for kind in entry["on"]:
                is_excused = (name, kind.rstrip("*")) in NOT_COVERED
                if kind.endswith("*") and kind not in granted and not is_excused:
                    found.append(f"{owner}: {name} is allowed on no {kind.rstrip('*')}, which every request names")
    return found

"""IAM's decision on one action, one resource and the keys of a request, for the statements of one role."""

import arns

# Operators that the template may use: another one must be added here with its test.
TESTS = {
    "StringEquals": lambda given, wanted: given == wanted,
    "StringLike": lambda given, wanted: arns.matches(wanted, given),
    "ArnLike": lambda given, wanted: arns.matches(wanted, given),
    "Bool": lambda given, wanted: given.lower() == wanted.lower(),
}


class UnknownOperator(Exception):
    """evaluate.py does not know a condition's operator."""


def is_allowed(statements: list, action: str, resource: str, keys: dict) -> bool:
    """An explicit denial decides; otherwise a statement that allows; otherwise nothing is allowed."""
    fitting = [one for one in statements if applies(one, action, resource, keys)]
    return bool(fitting) and all(one.effect == "Allow" for one in fitting)


def applies(statement: object, action: str, resource: str, keys: dict) -> bool:
    return (
        any(arns.matches(one, action, ignore_case=True) for one in statement.actions)
        and any(arns.matches(one, resource) for one in statement.resources)
        and all(holds(*condition, keys) for condition in statement.conditions)
    )


def holds(operator: str, key: str, wanted: tuple, keys: dict) -> bool:
    """`keys` has lower-case names and lists of values; a key that a request lacks is not there."""
    given = keys.get(key.lower(), [])
    quantifier, _, name = operator.rpartition(":")
    if name == "Null":
        return all((not given) == (value == "true") for value in wanted)
    if name.endswith("IfExists"):
        if not given:
            return True
        name = name.removesuffix("IfExists")
    if name not in TESTS:
        raise UnknownOperator(operator)
    matched = [any(TESTS[name](one, value) for value in wanted) for one in given]
    if quantifier == "ForAllValues":
        return all(matched)
    return any(matched)

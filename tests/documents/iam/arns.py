"""ARNs with wildcards: whether one matches a name, or can match what another stands for."""

import functools
import re


def matches(pattern: str, text: str, ignore_case: bool = False) -> bool:
    """IAM's wildcards: * for any characters, ? for one."""
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(escaped, text, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def fits(arn: str, form: str) -> bool:
    """Whether `arn` can stand for a resource whose ARN has the form `form`, as in arn:${Partition}:rds:...

    In the first five parts a wildcard never stands for a colon.
    """
    if arn == "*":
        return True
    given, wanted = arn.split(":", 5), form.split(":", 5)
    return len(given) == len(wanted) and all(map(overlap, given, map(tokens, wanted)))


def tokens(form: str) -> tuple:
    """The characters of `form`, with "any" for each ${Name}, which stands for at least one character."""
    parts = re.split(r"(\$\{[^}]+\})", form)
    return tuple(token for part in parts for token in (["any"] if part.startswith("${") else part))


@functools.lru_cache(maxsize=100_000)
def overlap(pattern: str, form: tuple) -> bool:
    """Whether some text matches both."""
    if not form:
        return not pattern.strip("*")
    if not pattern:
        return False
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        return overlap(rest, form) or overlap(pattern, form[1:])
    if form[0] == "any":
        # The name ends here, or goes on.
        return overlap(rest, form[1:]) or overlap(rest, form)
    return first in ("?", form[0]) and overlap(rest, form[1:])

#!/usr/bin/env python3
"""Prints, as JSON, what is wrong with the permissions of expanded templates.

Its input has the expanded templates by the name of their deployment: {name: {region, resources}}.
"""

import json
import sys

import policies
import rules


def main() -> None:
    found = {}
    for name, deployment in json.load(sys.stdin).items():
        for fault in rules.faults(policies.all_statements(deployment)):
            found.setdefault(fault, []).append(name)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Checks calls of AWS, and the answers to them, against botocore's service models.

Reads one call a line from standard input, as local/src/aws/wire.rs writes it. Prints what is wrong, and fails if
something is: a value that a model forbids, or a request of a function that tests/wire/calls.jsonl does not have. With
FAIRDROP_UPDATE set, such a request is added to the file instead.

botocore's own validator knows neither patterns nor enumerations nor answers; so the checks are written here.
"""

import base64
import fcntl
import glob
import gzip
import importlib.util
import json
import os
import pathlib
import re
import sys

from protocols import Broken, error_of, operation_of, request_of, response_of
from shapes import Model

CALLS = pathlib.Path(__file__).parents[2] / "tests/wire/calls.jsonl"
# botocore's folder of a service, by the name under which requests are signed.
FOLDERS = {"events": "events", "monitoring": "cloudwatch", "execute-api": "apigatewaymanagementapi"}
# Errors that the API references' pages "Common errors" list for all operations, and models do not, with their statuses.
COMMON_ERRORS = {
    "AccessDenied": {400, 403},
    "AccessDeniedException": {400, 403},
    "ExpiredToken": {403},
    "ExpiredTokenException": {400, 403},
    "IncompleteSignature": {400, 403},
    "InternalFailure": {500},
    "InternalServerError": {500},
    "InvalidAction": {400, 404},
    "InvalidClientTokenId": {403},
    "InvalidParameterCombination": {400},
    "InvalidParameterValue": {400},
    "InvalidQueryParameter": {400},
    "MissingAction": {400},
    "MissingAuthenticationToken": {403},
    "MissingAuthenticationTokenException": {403},
    "MissingParameter": {400},
    "NotAuthorized": {400},
    "OptInRequired": {403},
    "RequestExpired": {400},
    "ServiceUnavailable": {503},
    "Throttling": {400},
    "ThrottlingException": {400},
    "UnrecognizedClientException": {400, 403},
    "ValidationError": {400},
    "ValidationException": {400},
}
# Answers that a model forbids and AWS gives: the operation, and a part of the problem.
DEVIATIONS = {
    # The model asks for 1 at least; the API reference's own example of a table on demand has 0.
    ("dynamodb DescribeTable", "NumberOfDecreasesToday: 0"),
}
# A path on this machine, and what a recording has in its place.
PATHS = re.compile(r"(?<![\w.:/-])/(?:tmp|root|home|work|Users|var|private)/[^\s\"',}]*")
SIGNATURES = re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s]*")
LONGEST = 300
SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request")


def folder_of(botocore, service):
    """The newest model of a service."""
    found = sorted(glob.glob(f"{botocore}/data/{FOLDERS.get(service, service)}/*/service-2.json.gz"))
    if not found:
        raise Broken(f"botocore has no service that signs as {service}")
    return found[-1]


class Checker:
    def __init__(self):
        self.botocore = os.path.dirname(importlib.util.find_spec("botocore").origin)
        self.models = {}
        self.wrong = {}
        self.new = {}
        self.known = {key(call) for call in recorded()}

    def model(self, service):
        if service not in self.models:
            with gzip.open(folder_of(self.botocore, service)) as file:
                self.models[service] = Model(json.load(file))
        return self.models[service]

    def check(self, call):
        problems = []
        where = f"{call['method']} {call['uri']}"
        try:
            scope = SCOPE.search(call["headers"].get("authorization", ""))
            if not scope:
                raise Broken("the request is not signed")
            region, service = scope.groups()
            model = self.model(service)
            operation = operation_of(model, call)
            where = f"{service} {operation['name']}"
            request = request_of(model, operation, call, problems)
            line = {
                "function": call["function"],
                "service": service,
                "operation": operation["name"],
                "region": region,
                "request": request,
                "status": call["status"],
            }
            self.answer(model, operation, call, line, problems)
            line["test"] = call["test"]
        except (Broken, ValueError) as broken:
            problems.append(str(broken))
            line = None
        problems = [one for one in problems if not any(of == where and part in one for of, part in DEVIATIONS)]
        for problem in problems:
            text = f"{call['function'] or 'the test'}: {where}: {problem}"
            self.wrong[text] = self.wrong.get(text, 0) + 1
        # What the test itself calls needs no recording.
        if line and line["function"] and not problems:
            self.new.setdefault(key(line) + (outcome(line),), line)

    def answer(self, model, operation, call, line, problems):
        status = call["status"]
        if call["response_body"].lstrip()[:5].lower() == b"<html":
            # A page of a server between client and service.
            return
        if status < 300:
            line["response"] = response_of(model, operation, call, problems)
            return
        code = error_of(model, call)
        line["error_code"] = code
        # A server between client and service answers without a code.
        if code is None:
            if status < 500:
                problems.append(f"the answer with status {status} has no error code")
            return
        shape = model.error(operation, code)
        if shape is None:
            allowed = COMMON_ERRORS.get(code)
        elif "error" in shape:
            allowed = {shape["error"].get("httpStatusCode", 400)}
        else:
            allowed = {500} if shape.get("fault") else {400}
        if allowed is None:
            problems.append(f"{operation['name']} has no error {code}")
        elif status not in allowed:
            problems.append(f"the error {code} has status {status} instead of {sorted(allowed)}")


def recorded():
    if not CALLS.exists():
        return []
    with CALLS.open() as file:
        return [json.loads(line) for line in file]


def key(line):
    """What makes a request a different one: who makes it, and with which members."""
    return line["function"], line["service"], line["operation"], ",".join(sorted(line["request"]))


def outcome(line):
    return line.get("error_code") or ("ok" if line["status"] < 300 else "none")


def short(value):
    """A value as it is recorded: one element of each list, and no path of this machine."""
    if isinstance(value, dict):
        return {name: short(inner) for name, inner in list(value.items())[:60]}
    if isinstance(value, list):
        return [short(inner) for inner in value[:1]]
    if isinstance(value, str):
        return SIGNATURES.sub(r"\1-", PATHS.sub("/path", value))[:LONGEST]
    return value


def save(new):
    """Adds the recordings that the file does not have. Other tests do the same meanwhile."""
    CALLS.parent.mkdir(exist_ok=True)
    with open(CALLS, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines = [json.loads(line) for line in file]
        known = {key(line) + (outcome(line),) for line in lines}
        for of, line in new.items():
            if of not in known:
                line = {**line, "request": short(line["request"])}
                if "response" in line:
                    line["response"] = short(line["response"])
                lines.append(line)
        order = lambda line: tuple(map(str, key(line))) + (outcome(line),)
        file.seek(0)
        file.truncate()
        file.writelines(json.dumps(line, sort_keys=False) + "\n" for line in sorted(lines, key=order))


def main():
    checker = Checker()
    for text in sys.stdin:
        call = json.loads(text)
        call["body"], call["response_body"] = base64.b64decode(call["body"]), base64.b64decode(call["response_body"])
        checker.check(call)
    if os.environ.get("FAIRDROP_UPDATE"):
        save(checker.new)
    else:
        for function, service, operation, members, *_ in checker.new:
            if (function, service, operation, members) not in checker.known:
                text = f"{function}: {service} {operation} with {members} is in no recording"
                checker.wrong[f"{text}: run the test with FAIRDROP_UPDATE=1"] = 1
    for problem, times in list(checker.wrong.items())[:40]:
        print(f"- {problem}" + (f" ({times} times)" if times > 1 else ""))
    sys.exit(1 if checker.wrong else 0)


if __name__ == "__main__":
    main()

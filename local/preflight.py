#!/usr/bin/env python3
"""Checks before a drop that every region can take orders: states of functions, quotas, alarms, and one real order.

usage: FAIRDROP_PREFLIGHT_TOKEN=... local/preflight.py --env use1 [--json]
       local/preflight.py --main REGION --regions REGION,... --stack STACK [--api REGION=URL ...] [--json]

--env reads main, regions and stack from samconfig.toml: all its environments with the same MainRegion. The order is for
the item `preflight-canary`, which is paused, so that no unit is sold; it is taken back, and the item closed. The order
needs a buyer's access token in FAIRDROP_PREFLIGHT_TOKEN, or after --token, where `ps` shows it to every user of this
machine. Exit code 1 if a check failed, 2 if one was skipped.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

CANARY = "preflight-canary"
KEEP_WARM = b'{"keep_warm":true}'
EVERYWHERE = ["order-intake", "order-status"]
OF_MAIN = ["checkout-drain", "checkout-worker", "order-confirm", "drop-admin"]
OPTIONAL = ["order-place", "live-updates", "live-publish", "token-keys", "token-keys-store"]
BEHIND_ALIAS = {"order-intake": "live"}
AWS = Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 3, "mode": "standard"})
HTTP_LIMIT_SECONDS = 30
POLL_SECONDS = 2
MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an answer: urllib would send the token to whatever host it names."""

    def redirect_request(self, *_: object) -> None:
        return None


HTTP = urllib.request.build_opener(NoRedirects)


class Preflight:
    """The rows of the table: region, check, result (ok, failed, skipped), detail, and what to do next."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rows: list[dict[str, str]] = []

    def add(self, region: str, check: str, result: str, detail: str, to_do: str = "") -> None:
        # Some errors are whole pages.
        detail = " ".join(detail.split())[:300]
        self.rows.append({"region": region, "check": check, "result": result, "detail": detail, "next": to_do})

    def client(self, service: str, region: str):
        return boto3.client(service, region_name=region, config=AWS)

    # ---- Functions

    def functions(self, region: str) -> None:
        aws = self.client("lambda", region)
        required = EVERYWHERE + (OF_MAIN if region == self.options.main else [])
        for function in required + OPTIONAL:
            try:
                self.function(aws, region, function)
            except aws.exceptions.ResourceNotFoundException:
                if function in required:
                    self.add(region, function, "failed", "not deployed", "deploy the stack in this region")
            except (BotoCoreError, ClientError) as error:
                self.add(region, function, "failed", str(error), "check your permissions and the region's health")

    def function(self, aws, region: str, function: str) -> None:
        name = f"{self.options.stack}-{function}"
        alias = {"Qualifier": BEHIND_ALIAS[function]} if function in BEHIND_ALIAS else {}
        found = aws.get_function_configuration(FunctionName=name, **alias)
        if function in OF_MAIN and aws.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions") == 0:
            self.add(region, function, "failed", "its reserved concurrency is 0", "is this region main? See the lease")
            return
        woken, until = False, time.monotonic() + self.options.wait
        while found.get("State", "Active") in ("Inactive", "Pending") and time.monotonic() < until:
            if found["State"] == "Inactive":
                woken = True
                try:
                    aws.invoke(FunctionName=name, Payload=KEEP_WARM, **alias)
                except ClientError:
                    pass  # the first invocation of an inactive function fails, and wakes it
            time.sleep(POLL_SECONDS)
            found = aws.get_function_configuration(FunctionName=name, **alias)
        state, update = found.get("State", "Active"), found.get("LastUpdateStatus", "Successful")
        reason = found.get("StateReasonCode") or found.get("LastUpdateStatusReasonCode")
        detail = f"{state}, last update {update}" + (f" ({reason})" if reason else "") + (", was inactive" if woken else "")
        if state in ("Inactive", "Pending"):
            self.add(region, function, "failed", detail, "Lambda restores it: run this check again in two minutes")
        elif state != "Active":
            self.add(region, function, "failed", detail, "read its StateReason, then deploy it again")
        elif update != "Successful":
            to_do = "wait, then run this check again" if update == "InProgress" else "deploy it again"
            self.add(region, function, "failed", detail, to_do)
        else:
            self.add(region, function, "ok", detail)

    # ---- Quotas and alarms

    def quotas(self, region: str) -> None:
        try:
            limit = self.client("lambda", region).get_account_settings()["AccountLimit"]
        except (BotoCoreError, ClientError) as error:
            self.add(region, "concurrency", "skipped", str(error), "allow lambda:GetAccountSettings")
            return
        free, wanted = limit["UnreservedConcurrentExecutions"], self.options.concurrency
        detail = f"{free} of {limit['ConcurrentExecutions']} executions are not reserved, {wanted} wanted"
        if free < wanted:
            self.add(region, "concurrency", "failed", detail, "request a higher quota: docs/OPERATING.md, Days before")
        else:
            self.add(region, "concurrency", "ok", detail)

    def alarms(self, region: str) -> None:
        try:
            pages = self.client("cloudwatch", region).get_paginator("describe_alarms").paginate(
                AlarmNamePrefix=f"{self.options.stack}-", StateValue="ALARM")
            names = [alarm["AlarmName"] for page in pages for alarm in page["MetricAlarms"]]
        except (BotoCoreError, ClientError) as error:
            self.add(region, "alarms", "skipped", str(error), "allow cloudwatch:DescribeAlarms")
            return
        if names:
            self.add(region, "alarms", "failed", ", ".join(names), "follow the page that the alarm's description names")
        else:
            self.add(region, "alarms", "ok", "no alarm is active")

    # ---- One real order for each region

    def canary(self) -> None:
        if not self.options.token:
            self.add("all", "canary order", "skipped", "no access token", "set FAIRDROP_PREFLIGHT_TOKEN")
            return
        now = int(time.time() * 1e6)
        try:
            try:
                # It opens only after it is paused: a buyer could otherwise reserve its unit in between.
                item = {"item_id": CANARY, "name": "Canary of preflight", "stock_total": 1, "opens_at": now + DAY_US}
                self.admin({"command": "create", "item": item})
            except RuntimeError as error:
                if "Exists" not in str(error):
                    raise
            self.admin({"command": "pause", "item_id": CANARY})
            # If this check is killed, the item closes by itself.
            changes = {"opens_at": now - MINUTE_US, "closes_at": now + 15 * MINUTE_US}
            self.admin({"command": "update", "item_id": CANARY, "changes": changes})
        except (BotoCoreError, ClientError, RuntimeError) as error:
            self.add(self.options.main, "canary item", "failed", str(error), "check drop-admin's log")
            return
        for region in self.options.regions:
            try:
                self.order(region)
            except (BotoCoreError, ClientError, OSError, RuntimeError, ValueError) as error:
                self.add(region, "canary order", "failed", str(error), "docs/PROBLEMS.md explains the problem")
        try:
            self.admin({"command": "close", "item_id": CANARY})
        except (BotoCoreError, ClientError, RuntimeError) as error:
            self.add(self.options.main, "canary item", "failed", f"not closed: {error}", f"close {CANARY} by drop-admin")

    def admin(self, command: dict) -> dict:
        name = f"{self.options.stack}-drop-admin"
        answer = self.client("lambda", self.options.main).invoke(FunctionName=name, Payload=json.dumps(command).encode())
        body = json.load(answer["Payload"])
        if answer.get("FunctionError"):
            raise RuntimeError(f"{command['command']}: {body.get('errorType')}: {body.get('errorMessage')}")
        return body

    def api(self, region: str) -> str:
        if region in self.options.api:
            return refuse_plain_http(self.options.api[region])
        stacks = self.client("cloudformation", region).describe_stacks(StackName=self.options.stack)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stacks[0].get("Outputs", [])}
        if "ApiUrl" not in outputs:
            raise RuntimeError("the stack has no output ApiUrl")
        return refuse_plain_http(outputs["ApiUrl"])

    def order(self, region: str) -> None:
        base = f"{self.api(region).rstrip('/')}/items/{CANARY}"
        # The region reads the item from a replica, and keeps it for a second. Only `paused` shows that it has read the
        # pause and the new opening time.
        until = time.monotonic() + 15
        while (answer := self.http("GET", base))[0] != 200 or answer[1].get("phase") != "paused":
            if time.monotonic() > until:
                problem = answer[1].get("type") or f"phase {answer[1].get('phase')}, not paused"
                raise RuntimeError(f"GET the item: {answer[0]} {problem}")
            time.sleep(0.5)
        # What a check that was ended has left behind.
        self.http("DELETE", f"{base}/orders/me")
        began = time.monotonic()
        placed = self.must("POST", f"{base}/orders", 202)
        took_ms = int((time.monotonic() - began) * 1000)
        self.until(f"{base}/orders/me", "queued")
        self.must("DELETE", f"{base}/orders/me", 200, 202)
        if placed.get("status") == "accepted":
            # Through an order log, main decides later.
            self.until(f"{base}/orders/me", "none")
        self.add(region, "canary order", "ok", f"{placed.get('status')} after {took_ms} ms, and taken back")

    def must(self, method: str, url: str, *expected: int) -> dict:
        status, body = self.http(method, url)
        if status not in expected:
            raise RuntimeError(f"{method} {url}: {status} {body.get('type', '')} {body.get('detail', '')}".strip())
        return body

    def until(self, url: str, wanted: str) -> None:
        """Waits until the order has the status `wanted`. Only an order log takes time."""
        until = time.monotonic() + 20
        while (body := self.must("GET", url, 200)).get("status") != wanted:
            if time.monotonic() > until or body.get("status") not in ("accepted", "queued"):
                raise RuntimeError(f"the order is {body.get('status')}, not {wanted}")
            time.sleep(0.5)

    def http(self, method: str, url: str) -> tuple[int, dict]:
        headers = {"authorization": f"Bearer {self.options.token}"}
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with HTTP.open(request, timeout=HTTP_LIMIT_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                return error.code, json.loads(text)
            except ValueError:
                return error.code, {"detail": text[:200].decode(errors="replace")}

    def run(self) -> int:
        for region in self.options.regions:
            self.functions(region)
            self.quotas(region)
            self.alarms(region)
        self.canary()
        results = {row["result"] for row in self.rows}
        return 1 if "failed" in results else 2 if "skipped" in results else 0


def refuse_plain_http(url: str) -> str:
    """Returns `url`. Fails if the token would cross the network in plain text."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"):
        return url
    raise RuntimeError(f"{url} is not https, and would show the token to the network: give an https URL with --api")


def table(rows: list[dict[str, str]]) -> str:
    columns = ["result", "region", "check", "detail"]
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns[:-1]}
    line = lambda row: "  ".join(row[column].ljust(widths.get(column, 0)) for column in columns).rstrip()
    text = [line({column: column for column in columns})]
    for row in rows:
        text.append(line(row))
        if row["next"]:
            text.append(f"{'':{widths['result']}}  next: {row['next']}")
    return "\n".join(text)


def from_samconfig(options: argparse.Namespace) -> None:
    path = pathlib.Path(__file__).resolve().parent.parent / "samconfig.toml"
    settings = {name: env["global"]["parameters"] for name, env in tomllib.loads(path.read_text()).items()
                if isinstance(env, dict) and "global" in env}
    if options.env not in settings:
        sys.exit(f"samconfig.toml has no environment {options.env}; it has {', '.join(settings)}")
    one = settings[options.env]
    options.main = one["parameter_overrides"]["MainRegion"]
    options.stack = one["stack_name"]
    # `single` and the three regions share names; a lone environment is its own deployment.
    same = [s for name, s in settings.items() if (name == "single") == (options.env == "single")]
    options.regions = sorted({s["region"] for s in same
                              if s["stack_name"] == options.stack and s["parameter_overrides"]["MainRegion"] == options.main})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", help="an environment of samconfig.toml")
    parser.add_argument("--main", help="main's region")
    parser.add_argument("--regions", type=lambda text: text.split(","), help="all regions, separated by commas")
    parser.add_argument("--stack", default="fairdrop", help="the name of the stack")
    parser.add_argument("--api", action="append", default=[], metavar="REGION=URL", help="instead of the stack's output")
    parser.add_argument("--token", default=os.environ.get("FAIRDROP_PREFLIGHT_TOKEN"), help="a buyer's access token; better in FAIRDROP_PREFLIGHT_TOKEN: `ps` shows arguments")
    parser.add_argument("--concurrency", type=int, default=800, help="unreserved executions that each region should have (default: 800)")
    parser.add_argument("--wait", type=float, default=120, help="seconds to wait for an inactive function")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    if options.env:
        from_samconfig(options)
    if not options.main or not options.regions:
        parser.error("give --env, or --main and --regions")
    options.api = dict(pair.split("=", 1) for pair in options.api)
    preflight = Preflight(options)
    code = preflight.run()
    print(json.dumps({"exit_code": code, "rows": preflight.rows}, indent=2) if options.json else table(preflight.rows))
    return code


if __name__ == "__main__":
    sys.exit(main())

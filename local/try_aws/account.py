"""The account in which facts are tried: its clients, the names of what is created, and the time that is left."""

import dataclasses
import json
import threading
import time

import boto3
import botocore.config

PREFIX = "fairdrop-try-"
TAG = "fairdrop:try-aws"


class TimeIsUp(Exception):
    """The run's limit was reached, or the operator stopped it."""


class NotAnswered(Exception):
    """The account, or the emulator, gives no answer; the text says why."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found out: whether AWS does as documented, and what was measured."""

    as_documented: bool
    measured: str


class Account:
    """One run. Every name that it creates begins with `prefix`, by which clean.py finds it again."""

    def __init__(self, region: str, other_region: str, run: str, limit_seconds: float) -> None:
        self.region, self.other_region = region, other_region
        self.prefix = f"{PREFIX}{run}-"
        self.tags = {TAG: run}
        self.ends_at = time.monotonic() + limit_seconds
        self.stopped = threading.Event()
        self.session = boto3.Session(region_name=region)
        self.lock = threading.Lock()
        caller = self.client("sts").get_caller_identity()
        self.id, self.partition = caller["Account"], caller["Arn"].split(":")[1]

    def client(self, service: str, region: str = "", credentials: dict | None = None) -> object:
        retries = {"total_max_attempts": 4, "mode": "standard"}
        limits = botocore.config.Config(connect_timeout=5, read_timeout=30, retries=retries)
        keys = {}
        if credentials:
            keys = {
                "aws_access_key_id": credentials["AccessKeyId"],
                "aws_secret_access_key": credentials["SecretAccessKey"],
                "aws_session_token": credentials["SessionToken"],
            }
        # A session makes clients in one thread at a time.
        with self.lock:
            return self.session.client(service, region_name=region or self.region, config=limits, **keys)

    def name(self, what: str) -> str:
        return self.prefix + what

    def key_values(self) -> list:
        return [{"Key": key, "Value": value} for key, value in self.tags.items()]

    def arn(self, service: str, resource: str, region: str = "") -> str:
        return f"arn:{self.partition}:{service}:{region or self.region}:{self.id}:{resource}"

    def pause(self, seconds: float) -> None:
        """Waits; fails if the run ends meanwhile."""
        left = self.ends_at - time.monotonic()
        if self.stopped.wait(min(seconds, max(left, 0))) or left < seconds:
            raise TimeIsUp

    def until(self, found: object, every_seconds: float = 5) -> object:
        """The first true value that `found()` returns."""
        while True:
            if value := found():
                return value
            self.pause(every_seconds)

    def role(self, what: str, service: str, statements: list) -> str:
        """The ARN of a new role that `service` assumes; "" is this account."""
        principal = {"Service": service} if service else {"AWS": f"arn:{self.partition}:iam::{self.id}:root"}
        trust = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        document = {"Version": "2012-10-17", "Statement": [trust]}
        iam, name = self.client("iam"), self.name(what)
        made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document), Tags=self.key_values())
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_role_policy(RoleName=name, PolicyName="try", PolicyDocument=policy)
        return made["Role"]["Arn"]

    def assume(self, role: str) -> dict:
        """Credentials of `role`, which IAM needs some seconds to make known."""
        sts = self.client("sts")

        def credentials() -> dict | None:
            try:
                return sts.assume_role(RoleArn=role, RoleSessionName="try")["Credentials"]
            except sts.exceptions.ClientError as error:
                if error.response["Error"]["Code"] != "AccessDenied":
                    raise
                return None

        found = self.until(credentials)
        # The role's policy is known later than the role itself.
        if not self.is_emulated:
            self.pause(15)
        return found

    @property
    def is_emulated(self) -> bool:
        endpoint = self.client("sts").meta.endpoint_url
        return "amazonaws." not in endpoint

"""Deletes what runs created, by the beginning of the names. What has another name is never touched."""

import re
import sys
import time

import botocore.exceptions

from account import PREFIX


def created(run: str) -> re.Pattern:
    """Names of things of `run`, or of any run."""
    return re.compile(f"{PREFIX}{run or '[0-9a-f]{8}'}-")


def pages(client: object, call: str, member: str, **arguments: object) -> list:
    return [one for page in client.get_paginator(call).paginate(**arguments) for one in page.get(member, [])]


def same(names: list) -> list:
    """Things that are deleted by their names."""
    return [(name, name) for name in names]


def delete_role(iam: object, name: str) -> None:
    for policy in pages(iam, "list_role_policies", "PolicyNames", RoleName=name):
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


def kinds(account: object) -> list:
    """Kind, how to list its names and ids, how to delete one; in an order in which AWS accepts it."""
    names = ("scheduler", "apigatewayv2", "lambda", "logs", "sqs", "cognito-idp", "iam")
    scheduler, gateway, functions, logs, sqs, cognito, iam = map(account.client, names)
    of_functions = f"/aws/lambda/{PREFIX}"
    return [
        (
            "schedule",
            lambda: same([one["Name"] for one in pages(scheduler, "list_schedules", "Schedules", NamePrefix=PREFIX)]),
            lambda name: scheduler.delete_schedule(Name=name),
        ),
        (
            "API",
            lambda: [(one["Name"], one["ApiId"]) for one in pages(gateway, "get_apis", "Items")],
            lambda api: gateway.delete_api(ApiId=api),
        ),
        (
            "function",
            lambda: same([one["FunctionName"] for one in pages(functions, "list_functions", "Functions")]),
            lambda name: functions.delete_function(FunctionName=name),
        ),
        (
            "log group",
            lambda: same(
                one["logGroupName"]
                for one in pages(logs, "describe_log_groups", "logGroups", logGroupNamePrefix=of_functions)
            ),
            lambda name: logs.delete_log_group(logGroupName=name),
        ),
        (
            "queue",
            lambda: [
                (url.rsplit("/", 1)[-1], url) for url in pages(sqs, "list_queues", "QueueUrls", QueueNamePrefix=PREFIX)
            ],
            lambda url: sqs.delete_queue(QueueUrl=url),
        ),
        (
            "user pool",
            lambda: [(one["Name"], one["Id"]) for one in pages(cognito, "list_user_pools", "UserPools", MaxResults=60)],
            lambda pool: cognito.delete_user_pool(UserPoolId=pool),
        ),
        (
            "role",
            lambda: same([one["RoleName"] for one in pages(iam, "list_roles", "Roles")]),
            lambda name: delete_role(iam, name),
        ),
    ]


def sweep(account: object, run: str = "", only_list: bool = False) -> list:
    """Deletes the things of `run`, or of all runs, and returns their names. A failure leaves the other kinds alone."""
    is_ours, found = created(run), []
    for kind, list_all, delete in kinds(account):
        try:
            for name, one in list_all():
                if is_ours.search(name):
                    found.append(f"{kind} {name}")
                    if not only_list:
                        delete(one)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            print(f"could not delete every {kind}: {error}", file=sys.stderr)
            found.append(f"{kind} (unknown)")
    return found


def left_after_sweep(account: object, run: str, wait_seconds: int = 90) -> list:
    """What is still there after it was deleted. SQS lists a deleted queue for up to a minute."""
    sweep(account, run)
    ends_at = time.monotonic() + wait_seconds
    while (left := sweep(account, run, only_list=True)) and time.monotonic() < ends_at:
        time.sleep(5)
    return left

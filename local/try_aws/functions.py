"""Facts about Lambda and API Gateway, with one function on a custom runtime, as fairdrop's functions have."""

import io
import json
import time
import urllib.request
import zipfile

from account import Account, Answer, NotAnswered

# Returns its event; fails if the event asks for it; writes the lines of a file if the event asks for that.
BOOTSTRAP = r"""#!/bin/sh
runtime="http://${AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation"
while true; do
  headers=$(mktemp)
  event=$(curl -sS -L -D "$headers" "$runtime/next")
  id=$(grep -Fi Lambda-Runtime-Aws-Request-Id "$headers" | tr -d '[:space:]' | cut -d: -f2)
  case "$event" in
    *'"try":"fail"'*) curl -sS -o /dev/null "$runtime/$id/error" -d '{"errorMessage":"asked for"}'; continue ;;
    *'"try":"write"'*) cat lines ;;
  esac
  curl -sS -o /dev/null "$runtime/$id/response" -d "$event"
done
"""
# Each has a name, by which it is found in the log.
LINES = {
    "metric-without-level": {"_aws": {"Timestamp": 0, "CloudWatchMetrics": []}},
    "metric-with-level": {"_aws": {"Timestamp": 0, "CloudWatchMetrics": []}, "level": "ERROR"},
    "entry-without-level": {"message": "try"},
    "entry-with-level": {"message": "try", "level": "ERROR"},
}


def package() -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    dated = {name: line | ({"timestamp": now} if "level" in line else {}) for name, line in LINES.items()}
    lines = "".join(json.dumps({"line": name} | line) + "\n" for name, line in dated.items())
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in (("bootstrap", BOOTSTRAP), ("lines", lines)):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, text)
    return target.getvalue()


def function(account: Account, what: str, statements: list, level: str) -> str:
    """The ARN of a new function that is Active."""
    functions, name, code = account.client("lambda"), account.name(what), package()
    # The role may not create the group: a late entry would do so after the clean-up.
    group = f"/aws/lambda/{name}"
    account.client("logs").create_log_group(logGroupName=group, tags=account.tags)
    logs = {"Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"]}
    logs["Resource"] = account.arn("logs", f"log-group:{group}:*")
    role = account.role(what, "lambda.amazonaws.com", [logs, *statements])

    def create() -> str:
        try:
            return functions.create_function(
                FunctionName=name,
                Role=role,
                Runtime="provided.al2023",
                Handler="bootstrap",
                Code={"ZipFile": code},
                Timeout=10,
                LoggingConfig={"LogFormat": "JSON", "ApplicationLogLevel": level},
                Tags=account.tags,
            )["FunctionArn"]
        except functions.exceptions.InvalidParameterValueException as error:
            # IAM needs some seconds to make the role known to Lambda.
            if "assume" not in str(error):
                raise
            return ""

    arn = account.until(create)
    account.until(lambda: functions.get_function_configuration(FunctionName=name).get("State", "Active") == "Active")
    return arn


def time_epoch(account: Account) -> Answer:
    """The resolution of requestContext.timeEpoch, in 20 requests to an HTTP API."""
    arn = function(account, "epoch", [], "INFO")
    gateway, functions = account.client("apigatewayv2"), account.client("lambda")
    api = gateway.create_api(Name=account.name("epoch"), ProtocolType="HTTP", Target=arn, Tags=account.tags)
    functions.add_permission(
        FunctionName=arn,
        StatementId="try",
        Action="lambda:InvokeFunction",
        Principal="apigateway.amazonaws.com",
        SourceArn=account.arn("execute-api", f"{api['ApiId']}/*"),
    )

    def stamp() -> int:
        try:
            with urllib.request.urlopen(api["ApiEndpoint"], timeout=10) as response:
                return json.load(response)["requestContext"]["timeEpoch"]
        except (OSError, ValueError, KeyError):
            return 0

    account.until(stamp)
    stamps = []
    while len(stamps) < 20:
        stamps.append(account.until(stamp))
        account.pause(0.3)
    digits, even = len(str(stamps[0])), sum(one % 1000 == 0 for one in stamps)
    return Answer(digits == 13 and even < 5, f"{digits} digits; {even} of {len(stamps)} at a full second")


def emf_log_filter(account: Account) -> Answer:
    """Which lines of a function pass Lambda's filter at WARN."""
    arn, logs = function(account, "lines", [], "WARN"), account.client("logs")
    answer = account.client("lambda").invoke(FunctionName=arn, Payload=b'{"try":"write"}')
    if answer.get("FunctionError"):
        raise NotAnswered(f"the function failed: {answer['FunctionError']}")
    group = f"/aws/lambda/{account.name('lines')}"

    def written() -> set:
        found = logs.filter_log_events(logGroupName=group)["events"]
        return {name for name in LINES if any(f'"{name}"' in one["message"] for one in found)}

    account.until(lambda: "entry-with-level" in written())
    account.pause(20)
    passed = written()
    is_expected = "metric-without-level" not in passed and "entry-without-level" not in passed
    return Answer(is_expected, f"passed at WARN: {', '.join(sorted(passed))}")


def async_dropped(account: Account) -> Answer:
    """Whether AsyncEventsDropped counts an event that Lambda sends to a destination on failure, and how late."""
    sqs, functions = account.client("sqs"), account.client("lambda")
    queue = sqs.create_queue(QueueName=account.name("failed"), tags=account.tags)["QueueUrl"]
    target = account.arn("sqs", account.name("failed"))
    arn = function(account, "fails", [{"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": target}], "INFO")
    functions.put_function_event_invoke_config(
        FunctionName=arn,
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": target}},
    )
    sent_at = time.time()
    functions.invoke(FunctionName=arn, InvocationType="Event", Payload=b'{"try":"fail"}')
    account.until(lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages"))
    dropped = account.until(lambda: account_metric(account, "AsyncEventsDropped", sent_at), 15)
    return Answer(dropped == 1, f"{dropped:.0f} counted, {time.time() - sent_at:.0f} s after the event")


def account_metric(account: Account, name: str, since: float) -> float:
    """The sum of a metric of the function `fails`."""
    answer = account.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/Lambda",
        MetricName=name,
        Dimensions=[{"Name": "FunctionName", "Value": account.name("fails")}],
        StartTime=since - 120,
        EndTime=time.time() + 60,
        Period=60,
        Statistics=["Sum"],
    )
    return sum(one["Sum"] for one in answer["Datapoints"])

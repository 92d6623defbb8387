"""Facts about time: how late schedules and figures are, and what CloudWatch makes of a metric without data."""

import datetime
import json
import statistics
import time

from account import Account, Answer

FIRINGS = 8


def schedule_lateness(account: Account) -> Answer:
    """How long after its time a schedule of one minute starts its target."""
    sqs, scheduler = account.client("sqs"), account.client("scheduler")
    queue = sqs.create_queue(QueueName=account.name("schedule"), tags=account.tags)["QueueUrl"]
    target = account.arn("sqs", account.name("schedule"))
    send = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": target}
    role = account.role("schedule", "scheduler.amazonaws.com", [send])

    def create() -> bool:
        try:
            scheduler.create_schedule(
                Name=account.name("schedule"),
                ScheduleExpression="rate(1 minute)",
                FlexibleTimeWindow={"Mode": "OFF"},
                Target={"Arn": target, "RoleArn": role, "Input": '{"time":"<aws.scheduler.scheduled-time>"}'},
            )
        except scheduler.exceptions.ValidationException as error:
            # IAM needs some seconds to make the role known to Scheduler.
            if "assume" not in str(error):
                raise
            return False
        return True

    account.until(create)
    late = {}
    while len(late) < FIRINGS:
        account.pause(1)
        answer = sqs.receive_message(
            QueueUrl=queue,
            MessageSystemAttributeNames=["SentTimestamp"],
            WaitTimeSeconds=5,
            MaxNumberOfMessages=10,
        )
        for message in answer.get("Messages", []):
            planned = datetime.datetime.fromisoformat(json.loads(message["Body"])["time"].replace("Z", "+00:00"))
            late[planned] = int(message["Attributes"]["SentTimestamp"]) / 1000 - planned.timestamp()
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    planned, seconds = sorted(late), sorted(late.values())
    skipped = round((planned[-1] - planned[0]).total_seconds() / 60) + 1 - len(planned)
    median = statistics.median(seconds)
    measured = f"{seconds[0]:.1f} to {seconds[-1]:.1f} s late, median {median:.1f} s; {skipped} skipped"
    return Answer(-1 <= seconds[0] and seconds[-1] <= 60, f"{len(late)} starts, {measured}")


def sqs_figures(account: Account) -> Answer:
    """How long after a message is sent the queue's figure in CloudWatch shows it."""
    sqs = account.client("sqs")
    queue = sqs.create_queue(QueueName=account.name("figures"), tags=account.tags)["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="try")
    sent_at = time.time()

    def shown() -> list:
        return account.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName="ApproximateNumberOfMessagesVisible",
            Dimensions=[{"Name": "QueueName", "Value": account.name("figures")}],
            StartTime=sent_at - 120,
            EndTime=time.time() + 60,
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]

    account.until(lambda: any(one["Maximum"] >= 1 for one in shown()), 10)
    late = time.time() - sent_at
    return Answer(late <= 900, f"shown {late:.0f} s after the message was sent")


def fill_unwritten(account: Account) -> Answer:
    """What FILL gives for a metric that was never written, alone and added to one that was."""
    cloudwatch, now = account.client("cloudwatch"), time.time()
    cloudwatch.put_metric_data(
        Namespace="fairdrop-try",
        MetricData=[{"MetricName": account.name("written"), "Value": 1, "Timestamp": now - 180}],
    )

    def metric(name: str) -> dict:
        stat = {"Metric": {"Namespace": "fairdrop-try", "MetricName": account.name(name)}, "Period": 60, "Stat": "Sum"}
        return {"Id": name, "ReturnData": name == "written", "MetricStat": stat}

    queries = [
        metric("written"),
        metric("unwritten"),
        {"Id": "alone", "Expression": "FILL(unwritten, 0)", "ReturnData": True},
        {"Id": "added", "Expression": "FILL(written, 0) + FILL(unwritten, 0)", "ReturnData": True},
    ]

    def values() -> dict:
        answer = cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=now - 600, EndTime=now)
        found = {one["Id"]: one["Values"] for one in answer["MetricDataResults"]}
        return found if found.get("written") else {}

    found = account.until(values, 10)
    alone, added = found.get("alone", []), found.get("added", [])
    measured = f"alone: {len(alone)} values {sorted(set(alone))}; added: {len(added)} values {sorted(set(added))}"
    return Answer(set(alone) == {0.0} and 1.0 in added, measured)

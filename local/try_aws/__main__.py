"""Answers, in an account of AWS, ten facts that fairdrop's design depends on and that documents leave open.

The ids of the rows are those of docs/AWS_FACTS.md. The run creates small things whose names begin with fairdrop-try-,
and deletes them at its end, also after an error or Ctrl-C. --clean deletes what an interrupted run has left.
Credentials are boto3's own: AWS_PROFILE, environment variables, or an instance's role.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import pathlib
import secrets
import signal
import sys

import botocore.exceptions

import clean
import figures
import functions
import permissions
from account import Account, Answer, NotAnswered, TimeIsUp

# In the order of the table. Those that wait longest are the last three.
FACTS = {
    "copy-request-tags": permissions.copy_request_tags,
    "connect-resource-tag": permissions.connect_resource_tag,
    "events-source": permissions.events_source,
    "cognito-access-token": permissions.cognito_token,
    "time-epoch": functions.time_epoch,
    "emf-log-filter": functions.emf_log_filter,
    "fill-unwritten": figures.fill_unwritten,
    "async-events-dropped": functions.async_dropped,
    "schedule-lateness": figures.schedule_lateness,
    "sqs-figures": figures.sqs_figures,
}
ESTIMATE = """\
This creates in account {account}, {region}: 3 functions, 3 queues, 8 roles, an HTTP API, a schedule, a Cognito user
pool, and one value of a custom metric (CloudWatch deletes it after 15 months). In {other} it only asks for a copy of
a snapshot that does not exist. Cost: less than 0.05 USD in all. Time: 10 to 20 minutes, at most {minutes:g}.
Everything is deleted at the end."""
# What cannot be tried in this way, and why.
LEFT_OUT = """\
Not tried: a function's State Inactive (after 14 days without an invocation); roles of a Global Datastore's members
after a promotion, and PendingModifiedValues of a replica (large instances for hours: `region-failover` reports both
in a drill); the WAL that a smaller replica cannot replay."""

ENTER = """\
To enter a result: find its id in docs/AWS_FACTS.md, replace "no" in the last column of that row by "{today}, {region}",
and add what was measured. If a row DIFFERS, open an issue: the code, and the stand-in that its tests use, must follow
AWS."""
EMULATED = "The answers are those of an emulator: do not enter them anywhere."


@dataclasses.dataclass(frozen=True)
class Row:
    id: str
    answer: str
    measured: str


def say(text: str) -> None:
    """To the operator; the table alone goes to the output."""
    print(text, file=sys.stderr)


def answer(name: str, account: Account) -> Row:
    """One fact; whatever happens, a row."""
    try:
        found: Answer = FACTS[name](account)
    except TimeIsUp:
        return Row(name, "not answered", "the run's time was over")
    except NotAnswered as reason:
        return Row(name, "not answered", str(reason))
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        return Row(name, "not answered", f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001: an answer that cannot be read must not lose the other nine.
        return Row(name, "not answered", f"the answer could not be read: {type(error).__name__}: {error}")
    return Row(name, "as assumed" if found.as_documented else "DIFFERS", found.measured)


def answers(account: Account, names: list) -> list:
    """All facts at the same time. After Ctrl-C the rest ends at its next wait."""
    with concurrent.futures.ThreadPoolExecutor(len(names)) as threads:
        running = [threads.submit(answer, name, account) for name in names]
        for one in running:
            one.add_done_callback(lambda done: say(f"  {done.result().id}: {done.result().answer}"))
        try:
            concurrent.futures.wait(running)
        except KeyboardInterrupt:
            say("stopping; what was created is deleted now")
            account.stopped.set()
        return [one.result() for one in running]


def table(rows: list, account: Account) -> str:
    lines = ["| id | answer | measured |", "|---|---|---|"]
    for row in rows:
        measured = " ".join(row.measured.replace("|", "/").split())[:300]
        lines.append(f"| `{row.id}` | {row.answer} | {measured} |")
    entering = EMULATED if account.is_emulated else ENTER.format(today=datetime.date.today(), region=account.region)
    return "\n".join([*lines, "", LEFT_OUT, "", entering])


def arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="make try-aws", description=__doc__, formatter_class=as_written)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--other-region", default="us-west-2", help="for the copy of a snapshot")
    parser.add_argument("--only", default="", help="ids, separated by commas")
    parser.add_argument("--limit-minutes", type=float, default=25)
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows to this file")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--clean", action="store_true", help="only delete what earlier runs left")
    given = parser.parse_args()
    unknown = set(filter(None, given.only.split(","))) - set(FACTS)
    if unknown:
        parser.error(f"unknown ids: {', '.join(sorted(unknown))}; known: {', '.join(FACTS)}")
    return given


def is_confirmed() -> bool:
    try:
        return input("Continue? yes or no: ").strip() == "yes"
    except EOFError:
        return False


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupted)
    given, run = arguments(), secrets.token_hex(4)
    try:
        account = Account(given.region, given.other_region, run, given.limit_minutes * 60)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        say(f"AWS did not accept your credentials: {error}. Set AWS_PROFILE or log in, then try again.")
        return 1
    if given.clean:
        print("\n".join(clean.sweep(account)) or "nothing was left")
        return 0
    where = {"account": account.id, "region": given.region, "other": given.other_region}
    say(ESTIMATE.format(**where, minutes=given.limit_minutes))
    if not given.yes and not is_confirmed():
        say("nothing was created")
        return 1
    names = [name for name in FACTS if not given.only or name in given.only.split(",")]
    rows = []
    try:
        rows = answers(account, names)
    finally:
        left = clean.left_after_sweep(account, run)
    print(table(rows, account))
    if given.json:
        given.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    if left:
        say(f"still there: {', '.join(left)}. Run `make try-aws ARGS=--clean` in a few minutes.")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

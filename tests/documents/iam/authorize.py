"""Which permissions AWS asks for when it gets a request: actions, resources, and the keys of the request.

Written from the service authorization reference and from the services' own guides (docs/AWS_FACTS.md).
"""

import dataclasses

ACCOUNT = "111122223333"


# IAM's name of a service, if requests are signed with another.
IAM_NAMES = {"monitoring": "cloudwatch"}


class UnknownOperation(Exception):
    """Nothing here says how AWS authorizes an operation: add it to OPERATIONS."""


@dataclasses.dataclass(frozen=True)
class Need:
    """One decision of IAM. `of` is the kind of the resource whose tags the request meets."""

    action: str
    resource: str
    keys: dict
    where: str = ""
    # Whether the request sets tags of a resource that exists.
    retags: bool = False


def tags_of(request: dict) -> dict:
    """aws:RequestTag/... and aws:TagKeys, in the names that IAM compares without regard to case."""
    tags = {tag["Key"]: tag.get("Value", "") for tag in request.get("Tags", [])}
    keys = {f"aws:requesttag/{key}".lower(): [value] for key, value in tags.items()}
    return keys | ({"aws:tagkeys": sorted(tags)} if tags else {})


class Call:
    """A recorded request, and the ARNs of what it names."""

    def __init__(self, recorded: dict) -> None:
        self.service, self.operation = IAM_NAMES.get(recorded["service"], recorded["service"]), recorded["operation"]
        self.region, self.request = recorded["region"], recorded["request"]

    def arn(self, service: str, kind: str, name: str) -> str:
        return name if name.startswith("arn:") else f"arn:aws:{service}:{self.region}:{ACCOUNT}:{kind}{name}"

    def rds(self, kind: str, member: str, default: str = "*") -> str:
        return self.arn("rds", f"{kind}:", self.request.get(member) or default)

    def datastore(self) -> str:
        # A Global Datastore belongs to no region.
        return f"arn:aws:elasticache::{ACCOUNT}:globalreplicationgroup:{self.request['GlobalReplicationGroupId']}"

    def function(self) -> str:
        name, qualifier = self.request["FunctionName"], self.request.get("Qualifier")
        whole = self.arn("lambda", "function:", name)
        return f"{whole}:{qualifier}" if qualifier else whole

    def needs(self) -> list:
        known = OPERATIONS.get(f"{self.service}:{self.operation}")
        if not known:
            raise UnknownOperation(f"{self.service}:{self.operation}")
        return known(self)


def region_of(arn: str) -> str:
    return arn.split(":")[3]


def keys_for(call: Call, key: str) -> list:
    """RDS uses a KMS key with the caller's permissions, through a grant."""
    if not key.startswith("arn:"):
        return []
    granted = {"kms:grantisforawsresource": ["true"], "kms:viaservice": [f"rds.{call.region}.amazonaws.com"]}
    return [Need("kms:DescribeKey", key, {}), Need("kms:CreateGrant", key, granted)]


def created(call: Call, action: str, sources: list, made: str, more: list) -> list:
    """A request that makes `made` of `sources`: every resource in one decision each, and its tags."""
    keys = tags_of(call.request)
    needs = [Need(action, arn, keys) for arn in [*sources, made, *more]]
    if keys:
        needs.append(Need("rds:AddTagsToResource", made, keys))
    # In the region of a source elsewhere, AWS asks again: without the request's tags, and for the source alone.
    needs += [Need(action, arn, {}, region_of(arn)) for arn in sources if region_of(arn) != call.region]
    return needs + keys_for(call, call.request.get("KmsKeyId", ""))


def copy_snapshot(call: Call) -> list:
    source = call.rds("snapshot", "SourceDBSnapshotIdentifier")
    return created(call, "rds:CopyDBSnapshot", [source], call.rds("snapshot", "TargetDBSnapshotIdentifier"), [])


def groups(call: Call) -> list:
    """Groups that RDS gives an instance, if the request names none."""
    members = (("subgrp", "DBSubnetGroupName"), ("pg", "DBParameterGroupName"), ("og", "OptionGroupName"))
    return [call.rds(kind, member, "default") for kind, member in members]


def restore_instance(call: Call) -> list:
    source, made = call.rds("snapshot", "DBSnapshotIdentifier"), call.rds("db", "DBInstanceIdentifier")
    return created(call, "rds:RestoreDBInstanceFromDBSnapshot", [source], made, groups(call))


def create_replica(call: Call) -> list:
    source, made = call.rds("db", "SourceDBInstanceIdentifier"), call.rds("db", "DBInstanceIdentifier")
    return created(call, "rds:CreateDBInstanceReadReplica", [source], made, groups(call))


def create_snapshot(call: Call) -> list:
    source, made = call.rds("db", "DBInstanceIdentifier"), call.rds("snapshot", "DBSnapshotIdentifier")
    return created(call, "rds:CreateDBSnapshot", [source], made, [])


def describe_snapshots(call: Call) -> list:
    resources = [call.rds("db", "DBInstanceIdentifier"), call.rds("snapshot", "DBSnapshotIdentifier")]
    return [Need("rds:DescribeDBSnapshots", arn, {}) for arn in resources]


def tagging(call: Call) -> list:
    keys = tags_of(call.request) or {"aws:tagkeys": call.request.get("TagKeys", [])}
    return [Need(f"rds:{call.operation}", call.request["ResourceName"], keys, retags=True)]


def update_schedule(call: Call) -> list:
    role = call.request["Target"]["RoleArn"]
    return [*schedule(call), Need("iam:PassRole", role, {"iam:passedtoservice": ["scheduler.amazonaws.com"]})]


def schedule(call: Call) -> list:
    name = f"{call.request.get('GroupName', 'default')}/{call.request['Name']}"
    return [Need(f"scheduler:{call.operation}", call.arn("scheduler", "schedule/", name), {})]


def put_events(call: Call) -> list:
    entries = call.request["Entries"]
    sources = sorted({entry["Source"] for entry in entries})
    buses = sorted({entry.get("EventBusName", "default") for entry in entries})
    keys = {"events:source": sources, "events:detail-type": sorted({entry["DetailType"] for entry in entries})}
    return [Need("events:PutEvents", call.arn("events", "event-bus/", bus), keys) for bus in buses]


def connection(method: str) -> object:
    def needs(call: Call) -> list:
        # The API's id is in the address, which a recorded request does not have.
        resource = f"arn:aws:execute-api:{call.region}:{ACCOUNT}:a1b2c3d4e5/live/{method}/@connections/"
        return [Need("execute-api:ManageConnections", resource + call.request["ConnectionId"], {})]

    return needs


def on(action: str, resource: object) -> object:
    return lambda call: [Need(action, resource(call), {})]


def simple(service: str, names: str, resource: object) -> dict:
    return {f"{service}:{name}": on(f"{service}:{name}", resource) for name in names.split()}


OPERATIONS = {
    **simple("rds", "DescribeDBInstances PromoteReadReplica ModifyDBInstance RebootDBInstance DeleteDBInstance",
             lambda call: call.rds("db", "DBInstanceIdentifier")),
    **simple("rds", "DeleteDBSnapshot", lambda call: call.rds("snapshot", "DBSnapshotIdentifier")),
    **simple("rds", "DescribeAccountAttributes", lambda call: "*"),
    **simple("cloudwatch", "GetMetricData ListMetrics", lambda call: "*"),
    **simple("dynamodb", "GetItem PutItem UpdateItem DeleteItem Query DescribeTable",
             lambda call: call.arn("dynamodb", "table/", call.request["TableName"])),
    **simple("lambda", "GetFunction GetFunctionConfiguration UpdateFunctionConfiguration PublishVersion UpdateAlias "
             "GetAlias GetFunctionConcurrency PutFunctionConcurrency DeleteFunctionConcurrency", Call.function),
    **simple("lambda", "GetAccountSettings", lambda call: "*"),
    "lambda:Invoke": on("lambda:InvokeFunction", Call.function),
    **simple("elasticache", "DescribeGlobalReplicationGroups FailoverGlobalReplicationGroup "
             "DisassociateGlobalReplicationGroup",
             Call.datastore),
    **simple("elasticache", "DescribeReplicationGroups",
             lambda call: call.arn("elasticache", "replicationgroup:", call.request["ReplicationGroupId"])),
    **simple("sns", "Publish", lambda call: call.request["TopicArn"]),
    "rds:CopyDBSnapshot": copy_snapshot,
    "rds:CreateDBSnapshot": create_snapshot,
    "rds:CreateDBInstanceReadReplica": create_replica,
    "rds:RestoreDBInstanceFromDBSnapshot": restore_instance,
    "rds:DescribeDBSnapshots": describe_snapshots,
    "rds:AddTagsToResource": tagging,
    "rds:RemoveTagsFromResource": tagging,
    "scheduler:GetSchedule": schedule,
    "scheduler:UpdateSchedule": update_schedule,
    **simple("events", "DescribeEventBus", lambda call: call.arn("events", "event-bus/", call.request["Name"])),
    "events:PutEvents": put_events,
    "execute-api:PostToConnection": connection("POST"),
    "execute-api:DeleteConnection": connection("DELETE"),
}  # fmt: skip

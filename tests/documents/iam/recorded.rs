//! Every recorded request of the functions, with the permissions of its role.

use super::run;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use tests::expanded::{ACCOUNT, Deployment, deployments, expand};

/// moto's account.
const OTHER_ACCOUNT: &str = "123456789012";

/// Parameters, and their values.
type Given = &'static [(&'static str, &'static str)];

/// A deployment in which a function of the tests could run.
struct Simulated {
    function: &'static str,
    /// An environment of samconfig.toml, with every option.
    environment: &'static str,
    region: &'static str,
    parameters: Given,
    /// What a test calls otherwise than CloudFormation, and its deployed name.
    names: Given,
}

const fn main(function: &'static str, names: Given) -> Simulated {
    Simulated { function, environment: "use1", region: "us-east-1", parameters: &[], names }
}

const fn standby(function: &'static str, parameters: Given, names: Given) -> Simulated {
    Simulated { function, environment: "usw2", region: "eu-west-1", parameters, names }
}

/// The lease's table in the tests.
const LEASE: Given = &[("lease", "fairdrop-stores-lease"), ("fairdrop-main-lease", "fairdrop-stores-lease")];

/// The order log's table in the tests.
const ORDER_LOG: Given = &[("order-log", "fairdrop-OrderLogTable-ABCDEFGHIJKL")];

/// The tables that main's functions call in the tests.
const LEASE_AND_LOG: Given = &[
    ("lease", "fairdrop-stores-lease"),
    ("fairdrop-main-lease", "fairdrop-stores-lease"),
    ("order-log", "fairdrop-OrderLogTable-ABCDEFGHIJKL"),
];

/// The tests copy with RDS's own key, which needs no permission; a deployment has a key of its own.
const KEY: Given =
    &[("alias/aws/rds", "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab")];

/// Names of the control plane's tests.
const CONTROL_PLANE: Given = &[
    ("fairdrop-main-lease", "fairdrop-stores-lease"),
    ("fairdrop-order-log", "fairdrop-OrderLogTable-ABCDEFGHIJKL"),
    ("fairdrop-drain", "fairdrop-CheckoutDrainFunctionEve-ABCDEFGHIJKL"),
    ("fairdrop-worker", "fairdrop-CheckoutWorkerFunctionEv-ABCDEFGHIJKL"),
    (
        "arn:aws:iam::111122223333:role/fairdrop-drain",
        "arn:aws:iam::111122223333:role/fairdrop-CheckoutDrainFunctionEve-ABCDEFGHIJKL",
    ),
    (
        "arn:aws:iam::111122223333:role/fairdrop-worker",
        "arn:aws:iam::111122223333:role/fairdrop-CheckoutWorkerFunctionEv-ABCDEFGHIJKL",
    ),
];

const SIMULATED: [Simulated; 22] = [
    main("order-intake", ORDER_LOG),
    main("order-status", ORDER_LOG),
    main("order-place", ORDER_LOG),
    main("live-updates", ORDER_LOG),
    main("live-publish", ORDER_LOG),
    main("token-keys", &[("token-keys-store", "fairdrop-token-keys-store")]),
    main("token-keys-store", &[]),
    main("checkout-drain", LEASE),
    main("checkout-worker", LEASE_AND_LOG),
    main("order-confirm", LEASE),
    main("shop-events", LEASE),
    main("drop-admin", LEASE_AND_LOG),
    // The same in the standby, after a failover.
    standby("checkout-drain", &[], LEASE),
    standby("checkout-worker", &[], LEASE_AND_LOG),
    standby("order-confirm", &[], LEASE),
    standby("shop-events", &[], LEASE),
    standby("drop-admin", &[], LEASE_AND_LOG),
    Simulated { parameters: &[("SnapshotPrefix", "drops")], ..main("snapshot-copy", KEY) },
    standby("restore-drill", &[("SnapshotPrefix", "drops")], &[]),
    standby(
        "replica-lag",
        &[
            ("ReplicaInstance", "ledger-standby"),
            ("AlarmTopicArn", "arn:aws:sns:eu-west-1:111122223333:notices"),
        ],
        &[("state", "fairdrop-replica-lag-state")],
    ),
    // The unit tests with replayed answers.
    standby(
        "region-failover",
        &[("ReplicaInstance", "replica"), ("MainInstance", "main"), ("RedisGroup", "redis-here")],
        &[],
    ),
    // The tests with a whole control plane.
    standby(
        "region-failover",
        &[
            ("ReplicaInstance", "standby-ledger"),
            ("MainInstance", "main-ledger"),
            ("RedisGroup", "redis-here"),
        ],
        CONTROL_PLANE,
    ),
];

/// The deployments by function.
fn simulated() -> Value {
    let all = deployments().unwrap();
    let mut found: Map<String, Value> = Map::new();
    for one in &SIMULATED {
        let name = format!("{}, every option", one.environment);
        let mut deployment: Deployment = all.iter().find(|of| of.name == name).unwrap().clone();
        if one.environment == "usw2" {
            one.region.clone_into(&mut deployment.region);
            deployment = deployment.with(one.function, &[("StandbyRegion", one.region)]);
        }
        let deployment = deployment.with(one.function, one.parameters);
        let names: Map<String, Value> =
            one.names.iter().map(|(name, deployed)| ((*name).into(), json!(deployed))).collect();
        let resources = expand("template", &deployment).unwrap();
        let entry = json!({"region": one.region, "resources": resources, "names": names});
        found.entry(one.function).or_insert_with(|| json!([])).as_array_mut().unwrap().push(entry);
    }
    found.into()
}

/// The recorded calls of functions; those of a test's own clients are no function's.
fn calls() -> Vec<Value> {
    let file = local::system::process::workspace().join("tests/wire/calls.jsonl");
    let text = std::fs::read_to_string(file).unwrap().replace(OTHER_ACCOUNT, ACCOUNT);
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|call| call["function"].is_string()).collect()
}

/// What a role allows and no recorded request uses: function (`*`: all), action, reason.
pub(crate) const UNUSED: [(&str, &str, &str); 26] = [
    ("*", "logs:CreateLogStream", "Lambda writes the function's log"),
    ("*", "logs:PutLogEvents", "Lambda writes the function's log"),
    ("*", "ec2:AssignPrivateIpAddresses", "Lambda attaches the function to the VPC"),
    ("*", "ec2:CreateNetworkInterface", "Lambda attaches the function to the VPC"),
    ("*", "ec2:DeleteNetworkInterface", "Lambda attaches the function to the VPC"),
    ("*", "ec2:DescribeNetworkInterfaces", "Lambda attaches the function to the VPC"),
    ("*", "ec2:DescribeSubnets", "Lambda attaches the function to the VPC"),
    ("*", "ec2:UnassignPrivateIpAddresses", "Lambda attaches the function to the VPC"),
    ("*", "rds-db:connect", "a login at a database is no request to AWS"),
    ("*", "kms:Decrypt", "DynamoDB uses the order log's key"),
    ("*", "kms:DescribeKey", "DynamoDB uses the order log's key"),
    ("*", "kms:Encrypt", "DynamoDB uses the order log's key"),
    ("*", "kms:GenerateDataKey", "DynamoDB uses the order log's key"),
    ("*", "kms:GenerateDataKeyWithoutPlaintext", "DynamoDB uses the order log's key"),
    ("*", "kms:ReEncryptFrom", "DynamoDB uses the order log's key"),
    ("*", "kms:ReEncryptTo", "DynamoDB uses the order log's key"),
    ("order-confirm", "sqs:SendMessage", "Lambda sends failed events to the queue"),
    ("order-place", "sqs:SendMessage", "Lambda sends what names discarded records to the queue"),
    ("order-place", "dynamodb:DescribeStream", "Lambda reads the order log's stream"),
    ("order-place", "dynamodb:GetRecords", "Lambda reads the order log's stream"),
    ("order-place", "dynamodb:GetShardIterator", "Lambda reads the order log's stream"),
    ("order-place", "dynamodb:ListStreams", "Lambda reads the order log's stream"),
    ("region-failover", "kms:DescribeKey", "RDS encrypts a drill's copy; the tests' replica has no key"),
    ("region-failover", "kms:CreateGrant", "RDS encrypts a drill's copy; the tests' replica has no key"),
    ("restore-drill", "kms:DescribeKey", "RDS decrypts the snapshot with the role's permissions"),
    ("restore-drill", "kms:CreateGrant", "RDS decrypts the snapshot with the role's permissions"),
];

#[test]
fn every_recorded_request_is_allowed_also_as_aws_repeats_it_in_another_region() {
    let calls = calls();
    assert!(calls.len() > 10, "{} recorded calls", calls.len());
    let answer = run("simulate.py", &json!({"deployments": simulated(), "calls": calls}));
    assert!(answer["denied"] == json!({}), "{:#}", answer["denied"]);
}

#[test]
fn every_function_is_simulated() {
    let simulated: BTreeSet<&str> = SIMULATED.iter().map(|one| one.function).collect();
    for deployment in deployments().unwrap() {
        let resources = expand("template", &deployment).unwrap();
        for function in resources.values().filter(|one| one["Type"] == "AWS::Lambda::Function") {
            let name = function["Properties"]["FunctionName"].as_str().unwrap();
            let name = name.strip_prefix("fairdrop-").unwrap();
            assert!(simulated.contains(name), "{name}: add a deployment of it to SIMULATED");
        }
    }
}

#[test]
fn every_permission_is_used_by_a_recorded_request_or_explained() {
    let answer = run("simulate.py", &json!({"deployments": simulated(), "calls": calls()}));
    let unused: Vec<(&str, &str)> = answer["unused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one[0].as_str().unwrap(), one[1].as_str().unwrap()))
        .collect();
    let explains = |row: &(&str, &str, &str), (function, action): &(&str, &str)| {
        (row.0 == "*" || row.0 == *function) && row.1 == *action
    };
    let is_explained = |one: &(&str, &str)| UNUSED.iter().any(|row| explains(row, one));
    let unexplained: Vec<_> = unused.iter().filter(|one| !is_explained(one)).collect();
    assert!(
        unexplained.is_empty(),
        "no recorded request uses these; delete or explain them: {unexplained:#?}"
    );
    let superfluous: Vec<_> =
        UNUSED.iter().filter(|row| !unused.iter().any(|one| explains(row, one))).collect();
    assert!(superfluous.is_empty(), "{superfluous:?} are used, or no role has them");
}

/// Statements as they were, and requests that AWS would deny. The tests above depend on this.
#[test]
fn a_request_that_a_role_does_not_allow_is_found() {
    let tagged = json!({"StringEquals": {"aws:RequestTag/fairdrop:snapshots": "drops"}});
    let own = json!({"StringEquals": {"aws:ResourceTag/fairdrop:snapshots": "drops"}});
    let on = |region: &str| format!("arn:aws:rds:{region}:{ACCOUNT}:snapshot:drops-*");
    let allow = |action: &str, region: &str, condition: &Value| {
        let mut statement = json!({"Effect": "Allow", "Action": action, "Resource": on(region)});
        if condition.is_object() {
            statement["Condition"] = condition.clone();
        }
        statement
    };
    let copy = json!({"function": "snapshot-copy", "service": "rds", "operation": "CopyDBSnapshot",
        "region": "eu-west-1", "request": {"TargetDBSnapshotIdentifier": "drops-1",
            "SourceDBSnapshotIdentifier": format!("arn:aws:rds:us-east-1:{ACCOUNT}:snapshot:drops-1"),
            "Tags": [{"Key": "fairdrop:snapshots", "Value": "drops"}]}});
    let delete = json!({"function": "snapshot-copy", "service": "rds", "operation": "DeleteDBSnapshot",
        "region": "eu-west-1", "request": {"DBSnapshotIdentifier": "drops-1"}});
    let tag = || allow("rds:AddTagsToResource", "*", &tagged);
    let rest = [tag(), allow("rds:DeleteDBSnapshot", "*", &own)];
    let free = allow("rds:CopyDBSnapshot", "us-east-1", &Value::Null);
    let copies = allow("rds:CopyDBSnapshot", "*", &tagged);
    let cases = [
        (vec![copies.clone()], rest.to_vec(), "asked again in us-east-1: denied"),
        (vec![copies.clone(), free.clone()], rest.to_vec(), ""),
        (vec![copies.clone(), free.clone()], rest[1..].to_vec(), "rds:AddTagsToResource"),
        (
            vec![copies, free],
            vec![tag(), allow("rds:DeleteDBSnapshot", "*", &Value::Null)],
            "allowed without the function's tag",
        ),
    ];
    for (mut statements, more, expected) in cases {
        statements.extend(more);
        let role = json!({"Type": "AWS::IAM::Role",
            "Properties": {"Policies": [{"PolicyDocument": {"Statement": statements}}]}});
        let deployments =
            json!({"snapshot-copy": [{"region": "us-east-1", "resources": {"SnapshotCopyRole": role}}]});
        let answer = run("simulate.py", &json!({"deployments": deployments, "calls": [copy, delete]}));
        let denied = answer["denied"].to_string();
        assert_eq!(denied == "{}", expected.is_empty(), "{denied}");
        assert!(denied.contains(expected), "{denied}, not {expected}");
    }
}

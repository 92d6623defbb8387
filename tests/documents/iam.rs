//! The permissions of the expanded template against what AWS publishes about its actions.

pub(crate) mod recorded;

use serde_json::{Map, Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use tests::expanded::{Deployment, deployments, expand};

/// What a Python script of this folder prints, given `input`.
fn run(script: &str, input: &Value) -> Map<String, Value> {
    let path = local::system::process::workspace().join("tests/documents/iam").join(script);
    let mut running = Command::new(local::system::process::tool("python"))
        .arg(path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} failed; its error is above");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The expanded template of each deployment.
fn expanded() -> Value {
    let all = deployments().unwrap().into_iter();
    let one = |of: Deployment| json!({"region": of.region, "resources": expand("template", &of).unwrap()});
    all.map(|of| (of.name.clone(), one(of))).collect::<Map<String, Value>>().into()
}

/// A template with a role for each of `statements`.
fn of_statements(statements: &[Value]) -> Value {
    let role = |statement: &Value| {
        json!({"Type": "AWS::IAM::Role", "Properties": {
            "AssumeRolePolicyDocument": {"Statement": []},
            "Policies": [{"PolicyDocument": {"Statement": [statement]}}]}})
    };
    let roles: Map<String, Value> = statements
        .iter()
        .enumerate()
        .map(|(number, statement)| (format!("Role{number}"), role(statement)))
        .collect();
    json!({"test": {"region": "us-east-1", "resources": roles}})
}

#[test]
fn every_statement_of_every_environment_is_one_that_iam_can_apply() {
    let faults = run("check.py", &expanded());
    assert!(faults.is_empty(), "{}", serde_json::to_string_pretty(&faults).unwrap());
}

/// The test above depends on this: each statement has one fault, and the check must name it.
#[test]
fn a_statement_that_iam_cannot_apply_is_found() {
    let db = "arn:aws:rds:us-east-1:111122223333:db:ledger";
    let snapshot = "arn:aws:rds:us-east-1:111122223333:snapshot:a-*";
    let tagged = json!({"StringEquals": {"aws:ResourceTag/a": "b"}});
    let cases = [
        (json!({"Action": "rds:DeleteDBSnapshots", "Resource": snapshot}), "no action rds:DeleteDBSnapshots"),
        (json!({"Action": "rds:DeleteDBSnapshot", "Resource": db}), "no resource of rds:DeleteDBSnapshot"),
        (
            json!({"Action": "elasticache:FailoverGlobalReplicationGroup",
                "Resource": "arn:aws:elasticache:us-east-1:111122223333:globalreplicationgroup:a"}),
            "is no resource of elasticache:FailoverGlobalReplicationGroup",
        ),
        (
            json!({"Action": "rds:CreateDBSnapshot", "Resource": db}),
            "on no snapshot, which every request names",
        ),
        (json!({"Action": "rds:DescribeAccountAttributes", "Resource": db}), "supports no resource but *"),
        (
            json!({"Action": "rds-db:connect", "Condition": tagged,
                "Resource": "arn:aws:rds-db:us-east-1:111122223333:dbuser:*/fairdrop"}),
            "rds-db:connect has no key aws:ResourceTag/a",
        ),
        (
            json!({"Action": "rds:DeleteDBSnapshot", "Resource": snapshot,
                "Condition": {"StringEquals": {"aws:RequestTag/a": "b"}}}),
            "rds:DeleteDBSnapshot has no key aws:RequestTag/a",
        ),
        (
            json!({"Action": "events:PutEvents", "Condition": {"StringEquals": {"events:source": "fairdrop"}},
                "Resource": "arn:aws:events:us-east-1:111122223333:event-bus/default"}),
            "events:source has several values",
        ),
        (
            json!({"Action": "rds:AddTagsToResource", "Resource": db,
                "Condition": {"ForAllValues:StringEquals": {"aws:TagKeys": "a"}}}),
            "allows requests without aws:TagKeys",
        ),
        (
            json!({"Action": "rds:DeleteDBSnapshot", "Resource": snapshot,
                "Condition": {"ForAnyValue:StringEquals": {"aws:ResourceTag/a": "b"}}}),
            "aws:ResourceTag/a has one value",
        ),
        (json!({"Action": "rds:DeleteDBSnapshot", "Resource": snapshot, "Condition": tagged}), ""),
        (json!({"Action": ["rds:Describe*", "rds:ListTagsForResource"], "Resource": "*"}), ""),
    ];
    let allowed = |statement: &Value| {
        let mut statement = statement.clone();
        statement["Effect"] = json!("Allow");
        statement
    };
    let statements: Vec<Value> = cases.iter().map(|(statement, _)| allowed(statement)).collect();
    let faults = run("check.py", &of_statements(&statements));
    for (number, (statement, expected)) in cases.iter().enumerate() {
        let begin = format!("Role{number}");
        let of_role: Vec<&String> =
            faults.keys().filter(|fault| fault.split([' ', ':']).next() == Some(begin.as_str())).collect();
        let is_found = of_role.iter().any(|fault| fault.contains(expected));
        assert!(is_found != expected.is_empty(), "{statement}: {expected:?} against {of_role:?}");
        assert!(!expected.is_empty() || of_role.is_empty(), "{statement}: {of_role:?}");
    }
}

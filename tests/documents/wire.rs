//! The recorded calls of AWS (`tests/wire/calls.jsonl`) against the sources: each place that calls an operation has a
//! recording, and each recording has its test.

use crate::rights::reached;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use local::system::process::{tool, workspace};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tests::code::{Packages, SourceFunction};

/// One recorded request.
struct Recording {
    function: String,
    operation: String,
    /// The names of its members, as [`plain`] writes them.
    members: BTreeSet<String>,
    test: String,
}

fn recordings() -> Vec<Recording> {
    let lines = std::fs::read_to_string(workspace().join("tests/wire/calls.jsonl")).unwrap();
    let read = |line: &str| {
        let call: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| call[name].as_str().unwrap().to_owned();
        Recording {
            function: text("function"),
            operation: plain(&text("operation")),
            members: call["request"].as_object().unwrap().keys().map(|name| plain(name)).collect(),
            test: text("test"),
        }
    };
    lines.lines().map(read).collect()
}

/// A name without case and separators: `DBInstanceClass` and `db_instance_class` are the same member.
fn plain(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

/// The operations of an SDK, and the methods that set a member of each one's request.
fn operations(sdk: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let files = std::fs::read_dir(sdk.join("src/client")).unwrap().map(|entry| entry.unwrap().path());
    let stems = files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned());
    let setters = |operation: &String| {
        let text =
            std::fs::read_to_string(sdk.join(format!("src/operation/{operation}/builders.rs"))).ok()?;
        let names =
            text.lines().filter_map(|line| line.trim().strip_prefix("pub fn ")?.split_once("(mut self"));
        Some(names.map(|(name, _)| name.to_owned()).filter(|name| !name.starts_with("set_")).collect())
    };
    stems.filter_map(|operation| Some((operation.clone(), setters(&operation)?))).collect()
}

/// The calls of `functions` that no recording of `package` shows with all members that are always set.
fn missing(
    package: &str,
    functions: &[SourceFunction],
    operations: &BTreeMap<String, BTreeSet<String>>,
    recordings: &[Recording],
) -> Vec<String> {
    let mut missing = Vec::new();
    for function in functions {
        for operation in function.begins.iter().filter(|begun| operations.contains_key(*begun)) {
            // A method without an argument reads a member.
            let setters = function.calls.intersection(&operations[operation]);
            let set =
                setters.filter(|name| !function.begins.contains(*name)).map(|name| plain(name)).collect();
            let is_this = |one: &&Recording| {
                one.function == package && one.operation == plain(operation) && one.members.is_superset(&set)
            };
            if !recordings.iter().any(|one| is_this(&one)) {
                missing.push(format!(
                    "{package}: {operation} in {} ({}), with {set:?}",
                    function.name, function.package
                ));
            }
        }
    }
    missing
}

#[test]
fn each_call_of_aws_is_recorded() {
    let packages = Packages::of_workspace().unwrap();
    let recordings = recordings();
    let mut all = Vec::new();
    let mut callers = 0;
    for entry in std::fs::read_dir(workspace().join("functions")).unwrap() {
        let package = entry.unwrap().file_name().to_string_lossy().into_owned();
        let parts = packages.parts(&package, |name| packages.is_own(name) || name.starts_with("aws-sdk-"));
        let (sdks, own): (Vec<&String>, Vec<&String>) =
            parts.iter().partition(|part| part.starts_with("aws-sdk-"));
        let operations: BTreeMap<String, BTreeSet<String>> =
            sdks.iter().flat_map(|sdk| operations(packages.folder(sdk).unwrap())).collect();
        callers += usize::from(!sdks.is_empty());
        all.extend(missing(&package, &reached(&packages, &package, &own), &operations, &recordings));
    }
    assert!(callers > 5, "{callers} functions use an SDK");
    assert!(
        all.is_empty(),
        "no test makes these calls, or FAIRDROP_UPDATE=1 was not set when it did:\n{}",
        all.join("\n")
    );
}

/// The test above depends on this.
#[test]
fn a_call_with_other_members_than_the_recorded_ones_is_found() {
    let text = "fn fence() { let call = client.modify_db_instance().db_instance_identifier(id);
        call.vpc_security_group_ids(group).send(); }";
    let functions = tests::code::parsed("a", text).unwrap();
    let setters =
        ["db_instance_identifier", "vpc_security_group_ids", "db_instance_class"].map(str::to_owned);
    let operations = BTreeMap::from([("modify_db_instance".to_owned(), BTreeSet::from(setters))]);
    let recorded = |members: &[&str]| Recording {
        function: "a".into(),
        operation: "modifydbinstance".into(),
        members: members.iter().map(|name| plain(name)).collect(),
        test: String::new(),
    };
    let missing = |members: &[&str]| missing("a", &functions, &operations, &[recorded(members)]).len();
    assert_eq!(missing(&["DBInstanceIdentifier", "DBInstanceClass"]), 1);
    assert_eq!(missing(&["DBInstanceIdentifier", "VpcSecurityGroupIds", "ApplyImmediately"]), 0);
}

/// What the checker says about a call of `region-failover`.
fn checked(service: &str, request: (&str, &str, &str), answer: (u16, &str)) -> String {
    let ((method, uri, body), (status, response)) = (request, answer);
    let scope =
        format!("AWS4-HMAC-SHA256 Credential=test/20261128/eu-west-1/{service}/aws4_request, Signature=0");
    let is_form = body.starts_with("Action=");
    let kind = if is_form { "application/x-www-form-urlencoded" } else { "application/json" };
    let call = json!({
        "function": "region-failover",
        "test": "checked",
        "method": method,
        "uri": uri,
        "headers": { "authorization": scope, "content-type": kind },
        "body": STANDARD.encode(body),
        "status": status,
        "response_headers": {},
        "response_body": STANDARD.encode(response),
    });
    let mut command = Command::new(tool("python3"));
    command.arg("-B").arg(workspace().join("local/wire/check.py")).env_remove("FAIRDROP_UPDATE");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{call}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.success(), output.stdout.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

/// The other tests depend on this: they fail with what the checker finds.
#[test]
fn a_call_or_an_answer_that_a_model_forbids_is_found() {
    let rds = |members: &str, answer: (u16, &str)| {
        checked(
            "rds",
            ("POST", "/", &format!("Action=PromoteReadReplica&Version=2014-10-31&{members}")),
            answer,
        )
    };
    let done = |inner: &str| {
        let result = format!("<PromoteReadReplicaResult>{inner}</PromoteReadReplicaResult>");
        format!("<PromoteReadReplicaResponse>{result}</PromoteReadReplicaResponse>")
    };
    let refused = |code: &str| {
        format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>")
    };
    let id = "DBInstanceIdentifier=replica";
    assert_eq!(rds(id, (200, &done(""))), "");
    assert_eq!(rds(id, (404, &refused("DBInstanceNotFound"))), "");
    for (found, expected) in [
        (rds("DbInstanceIdentifier=replica", (200, &done(""))), "DbInstanceIdentifier is no member"),
        (rds("BackupRetentionPeriod=1", (200, &done(""))), "DBInstanceIdentifier is missing"),
        (rds(&format!("{id}&BackupRetentionPeriod=some"), (200, &done(""))), "'some' is no integer"),
        (
            rds(id, (200, &done("<DBInstance><DbInstancePort>a</DbInstancePort></DBInstance>"))),
            "answer.DBInstance.DbInstancePort: 'a' is no integer",
        ),
        (rds(id, (200, &done("<Instance/>"))), "answer: Instance is no member"),
        (
            rds(id, (400, &refused("DBInstanceNotFound"))),
            "DBInstanceNotFound has status 400 instead of [404]",
        ),
        (rds(id, (400, &refused("NoSuchError"))), "PromoteReadReplica has no error NoSuchError"),
        (rds(&format!("{id}&PreferredBackupWindow=a"), (200, &done(""))), "is in no recording"),
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
    let schedule = |name: &str, answer: &str| {
        checked("scheduler", ("GET", &format!("/schedules/{name}"), ""), (200, answer))
    };
    assert_eq!(schedule("drain", r#"{"State":"ENABLED"}"#), "");
    for (found, expected) in [
        (schedule("dr:ain", "{}"), "'dr:ain' does not match"),
        (schedule("drain", r#"{"State":"ON"}"#), "'ON' is none of"),
        (schedule("drain", r#"{"Arn":"x"}"#), "answer.Arn: 'x' does not match"),
        (schedule("drain", r#"{"Name":""}"#), "0 characters are outside of 1 to 64"),
        (schedule("drain", r#"{"CreationDate":"today"}"#), "'today' is no time"),
        (schedule("drain", r#"{"Target":{"Arn":"a"}}"#), "RoleArn is missing"),
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}

#[test]
fn each_recording_has_its_test() {
    let mut sources = String::new();
    for folder in ["tests", "functions"] {
        read(&workspace().join(folder), &mut sources);
    }
    for Recording { function, operation, test, .. } in recordings() {
        let name = test.rsplit("::").next().unwrap_or_default().to_owned();
        assert!(
            sources.contains(&format!("fn {name}(")),
            "{function}'s {operation} was recorded by {test}, which is no test any more: delete the line in \
             tests/wire/calls.jsonl, and record the call by another test with FAIRDROP_UPDATE=1"
        );
    }
}

/// Adds the Rust sources below a folder.
fn read(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("node_modules") {
            read(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

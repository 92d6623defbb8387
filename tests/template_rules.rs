//! The template against the code: variables, rights, alarms, events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tests::template;

fn workspace() -> PathBuf {
    local::process::workspace()
}

/// The code below `folder`, without its unit tests.
fn sources(folder: &Path) -> String {
    all_sources(folder, true)
}

/// All Rust sources below `folder`; without what follows `#[cfg(test)]`, where only code is wanted.
fn all_sources(folder: &Path, only_code: bool) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &all_sources(&path, only_code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(path).unwrap();
            let code = source.split("#[cfg(test)]").next().unwrap_or_default();
            text += if only_code { code } else { &source };
        }
    }
    text
}

/// The pieces of `text` that begin with `start` and go on while `is_part`.
fn words<'a>(text: &'a str, start: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<&'a str> {
    let places = text.match_indices(start).map(|(place, _)| place);
    places
        .filter_map(|place| {
            let rest = text.get(place..)?;
            rest.get(..rest.find(|one| !is_part(one)).unwrap_or(rest.len()))
        })
        .collect()
}

fn variables(text: &str) -> BTreeSet<&str> {
    words(text, "FAIRDROP_", |one| one.is_ascii_uppercase() || one == '_')
}

/// What the code reads and the template does not set, and why.
const NOT_SET: [(&str, &str); 7] = [
    ("FAIRDROP_LEDGER_PASSWORD", "on AWS there is none: IAM proves who asks"),
    ("FAIRDROP_LEDGER_CONNECTIONS", "the default suits Lambda"),
    ("FAIRDROP_LEDGER_REGION", "replica-lag gives it to the ledger itself, from FAIRDROP_MAIN_REGION"),
    ("FAIRDROP_TASK_LEFT_AFTER_MS", "the default suits the worker's time-out"),
    ("FAIRDROP_DRILL_POLL_SECONDS", "for tests"),
    ("FAIRDROP_SAMPLE_SECONDS", "for tests"),
    ("FAIRDROP_WATCH_SECONDS", "for tests"),
];

#[test]
fn every_variable_that_is_read_is_set_and_every_one_that_is_set_is_read() {
    let template = template::read().unwrap();
    let code = sources(&workspace().join("functions")) + &sources(&workspace().join("shared"));
    let (set, read) = (variables(&template), variables(&code));
    let not_set: BTreeSet<&str> = NOT_SET.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&&str> =
        read.iter().filter(|name| !set.contains(*name) && !not_set.contains(*name)).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "read by the code, and not set by the template");
    let unknown: Vec<&&str> = set.iter().filter(|name| !read.contains(*name)).collect();
    assert_eq!(unknown, Vec::<&&str>::new(), "set by the template, and not read by the code");
    let documented = std::fs::read_to_string(workspace().join("docs/LIMITS.md")).unwrap();
    let documented = variables(&documented);
    let silent: Vec<&&str> = read.iter().filter(|name| !documented.contains(*name)).collect();
    assert_eq!(silent, Vec::<&&str>::new(), "read by the code, and not in docs/LIMITS.md");
}

#[test]
fn in_the_standby_nobody_can_run_what_is_main_s_alone() {
    let template = template::read().unwrap();
    let mut checked = 0;
    for (name, text) in template::resources(&template) {
        if text.contains("Type: AWS::Serverless::Function\n    Condition: MayBeMain") {
            let rule = "ReservedConcurrentExecutions: !If [IsMain, !Ref AWS::NoValue, 0]";
            assert!(text.contains(rule), "{name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 4);
}

/// SDK calls, as the code writes them, and the right that each needs.
const CALLS: [(&str, &str); 28] = [
    (".describe_db_instances()", "rds:DescribeDBInstances"),
    (".describe_db_snapshots()", "rds:DescribeDBSnapshots"),
    ("manual_snapshots(", "rds:DescribeDBSnapshots"),
    ("one_snapshot(", "rds:DescribeDBSnapshots"),
    (".describe_account_attributes()", "rds:DescribeAccountAttributes"),
    (".create_db_snapshot()", "rds:CreateDBSnapshot"),
    (".copy_db_snapshot()", "rds:CopyDBSnapshot"),
    (".delete_db_snapshot()", "rds:DeleteDBSnapshot"),
    (".restore_db_instance_from_db_snapshot()", "rds:RestoreDBInstanceFromDBSnapshot"),
    (".delete_db_instance()", "rds:DeleteDBInstance"),
    (".modify_db_instance()", "rds:ModifyDBInstance"),
    (".get_metric_data()", "cloudwatch:GetMetricData"),
    (".list_metrics()", "cloudwatch:ListMetrics"),
    (".get_item()", "dynamodb:GetItem"),
    (".put_item()", "dynamodb:PutItem"),
    ("lease.keep_until(", "dynamodb:UpdateItem"),
    ("lease.keep_until(", "dynamodb:GetItem"),
    ("lease.permit_now(", "dynamodb:UpdateItem"),
    ("lease.permit_now(", "dynamodb:GetItem"),
    ("lease.found(", "dynamodb:PutItem"),
    ("lease.look(", "dynamodb:GetItem"),
    (".post_to_connection()", "execute-api:ManageConnections"),
    (".delete_connection()", "execute-api:ManageConnections"),
    (".publish()", "sns:Publish"),
    (".put_events()", "events:PutEvents"),
    (".tags(", "rds:AddTagsToResource"),
    ("Ledger::from_config", "rds-db:connect"),
    (".get_secret_value()", "secretsmanager:GetSecretValue"),
];

/// Rights for what AWS does on a function's behalf, and no line of code says.
const IMPLIED: [(&str, &str, &str); 5] = [
    ("snapshot-copy", "kms:DescribeKey", "RDS encrypts the copies with the role's rights"),
    ("snapshot-copy", "kms:CreateGrant", "RDS encrypts the copies with the role's rights"),
    ("restore-drill", "kms:DescribeKey", "RDS decrypts what it restores with the role's rights"),
    ("restore-drill", "kms:CreateGrant", "RDS decrypts what it restores with the role's rights"),
    ("order-confirm", "sqs:SendMessage", "Lambda puts aside what it gives up with the role's rights"),
];

/// Actions that a role allows; what every function needs of Lambda is left out.
fn allowed(role: &str) -> BTreeSet<&str> {
    let lines = role.lines().map(str::trim);
    let lists = lines.filter_map(|line| line.strip_prefix("Action:")).flat_map(|list| list.split(','));
    let actions = lists.map(|action| action.trim_matches([' ', '[', ']']));
    actions
        .filter(|action| !action.is_empty() && !action.starts_with("logs:") && *action != "sts:AssumeRole")
        .collect()
}

#[test]
fn each_role_allows_what_its_function_calls_and_nothing_else() {
    let template = template::read().unwrap();
    let resources = template::resources(&template);
    let mut seen = 0;
    for (name, text) in resources.iter().filter(|(_, text)| text.contains("AWS::Serverless::Function")) {
        let function =
            text.split("CodeUri: functions/").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        let role = text.split("Role: !GetAtt ").nth(1).and_then(|rest| rest.split('.').next()).unwrap();
        assert_eq!(
            format!("{role}Function"),
            format!("{name}Role").replace("FunctionRole", "RoleFunction"),
            "a role of its own"
        );
        let code = sources(&workspace().join("functions").join(function).join("src"));
        let mut expected: BTreeSet<&str> =
            CALLS.iter().filter(|(call, _)| code.contains(call)).map(|(_, right)| *right).collect();
        expected.extend(IMPLIED.iter().filter(|(of, _, _)| *of == function).map(|(_, right, _)| *right));
        assert_eq!(allowed(&resources[role]), expected, "{function}");
        seen += 1;
    }
    // What has no program yet is not deployed.
    let folders = std::fs::read_dir(workspace().join("functions")).unwrap();
    let programs = folders.filter(|folder| folder.as_ref().unwrap().path().join("src/main.rs").is_file());
    assert_eq!(seen, programs.count());
}

/// Where AWS knows no narrower resource.
const ANY_RESOURCE: [&str; 3] = ["LookAtQuotas", "LookAtFigures", "JoinVpc"];

#[test]
fn a_right_on_everything_is_one_that_aws_does_not_narrow() {
    let template = template::read().unwrap();
    let mut sid = "";
    for line in template.lines().map(str::trim) {
        sid = line.strip_prefix("- Sid: ").unwrap_or(sid);
        if line == "Resource: \"*\"" {
            assert!(
                ANY_RESOURCE.contains(&sid) || sid == "NotFromCode",
                "{sid} is allowed on every resource"
            );
        }
    }
}

#[test]
fn every_alarm_says_what_it_means_and_where_to_read_on() {
    let template = template::read().unwrap();
    let alarms: BTreeMap<String, String> = template::resources(&template)
        .into_iter()
        .filter(|(_, text)| text.contains("Type: AWS::CloudWatch::Alarm"))
        .collect();
    assert!(alarms.len() > 20, "{}", alarms.len());
    for (name, text) in alarms {
        assert!(
            text.contains("TreatMissingData: ") && text.contains("      # "),
            "{name} treats missing data without a reason"
        );
        let slug = text
            .split("AlarmName: !Sub ${AWS::StackName}-")
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .unwrap();
        let page =
            text.split("docs/runbook/").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        let page = std::fs::read_to_string(workspace().join("docs/runbook").join(page)).unwrap();
        let is_there =
            page.lines().any(|line| line == format!("## {slug}") || line == format!("## Alarm: {slug}"));
        assert!(is_there, "{name}: its page has no heading {slug}");
    }
}

#[test]
fn every_sample_event_is_used_by_a_test() {
    let tests =
        all_sources(&workspace().join("tests"), false) + &all_sources(&workspace().join("functions"), false);
    for entry in std::fs::read_dir(workspace().join("events")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".json") else { continue };
        let (function, kind) = stem.split_once('.').unwrap();
        let is_used = tests.contains(&name)
            || (tests.contains(&format!("{function}.{{")) && tests.contains(&format!("\"{kind}\"")));
        assert!(is_used, "events/{name} is in no test");
    }
}

/// What AWS's machines have: Amazon Linux 2023.
const GLIBC: (u32, u32) = (2, 34);

/// The newest glibc that a binary asks for.
fn glibc(binary: &[u8]) -> (u32, u32) {
    let text = String::from_utf8_lossy(binary);
    let versions = words(&text, "GLIBC_", |one| one.is_ascii_alphanumeric() || one == '_' || one == '.');
    let numbers = versions.iter().filter_map(|version| version.strip_prefix("GLIBC_")?.split_once('.'));
    numbers
        .filter_map(|(major, minor)| Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?)))
        .max()
        .unwrap_or_default()
}

/// Of what `sam build` has made, where it has: `make deploy-local` says where.
#[test]
fn what_was_built_runs_on_amazon_linux_2023_and_intake_is_small() {
    let Some(build) = std::env::var_os("FAIRDROP_SAM_BUILD") else {
        println!("nothing was built by sam; see make deploy-local");
        return;
    };
    for entry in std::fs::read_dir(PathBuf::from(build)).unwrap() {
        let path = entry.unwrap().path();
        let bootstrap = path.join("bootstrap");
        if !bootstrap.is_file() {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let needs = glibc(&std::fs::read(&bootstrap).unwrap());
        let zip = std::process::Command::new("python3")
            .args(["-c", "import sys, zlib; print(len(zlib.compress(open(sys.argv[1], 'rb').read(), 6)))"])
            .arg(&bootstrap)
            .output()
            .unwrap();
        let zipped: u64 = String::from_utf8_lossy(&zip.stdout).trim().parse().unwrap();
        println!("{name}: {:.2} MB zipped, glibc {}.{}", zipped as f64 / 1e6, needs.0, needs.1);
        assert!(needs > (2, 0) && needs <= GLIBC, "{name} needs glibc {needs:?}");
        assert!(name != "OrderIntakeFunction" || zipped < 3_000_000, "{name} has {zipped} bytes");
    }
}

/// Suites are listed by hand: one that is not is never run, and nobody would notice.
#[test]
fn every_suite_is_listed() {
    let listed = std::fs::read_to_string(workspace().join("tests/Cargo.toml")).unwrap();
    for entry in std::fs::read_dir(workspace().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let suite = if path.join("main.rs").is_file() { format!("{name}/main.rs") } else { name };
        let holds_tests = suite.ends_with("/main.rs")
            || suite.ends_with(".rs") && std::fs::read_to_string(&path).unwrap().contains("test]");
        assert!(!holds_tests || listed.contains(&format!("path = \"{suite}\"")), "{suite} is in no [[test]]");
    }
}

//! Each role against the code of its function. The sources of the function and of its SDKs show which of AWS's actions
//! it calls.

use crate::iam::recorded::UNUSED;
use std::collections::{BTreeMap, BTreeSet};
use tests::code::{self, Packages, SourceFunction};
use tests::template;

/// IAM's name of a service, if it differs from the name of its SDK.
const SERVICES: [(&str, &str); 3] = [
    ("eventbridge", "events"),
    ("apigatewaymanagement", "execute-api"),
    ("elasticloadbalancingv2", "elasticloadbalancing"),
];
/// IAM's name of an action, if it differs from the name of the call.
const RENAMED: [(&str, &str); 3] = [
    ("lambda:Invoke", "lambda:InvokeFunction"),
    ("execute-api:PostToConnection", "execute-api:ManageConnections"),
    ("execute-api:DeleteConnection", "execute-api:ManageConnections"),
];
/// Further actions that a call needs, by the name of a method.
const FURTHER: [(&str, &str); 5] = [
    ("database_token", "rds-db:connect"),
    ("tags", "rds:AddTagsToResource"),
    // UpdateSchedule replaces the whole schedule, its role included.
    ("update_schedule", "iam:PassRole"),
    // RDS encrypts with the caller's permissions, through a grant.
    ("set_kms_key_id", "kms:DescribeKey"),
    ("set_kms_key_id", "kms:CreateGrant"),
];

/// Calls that two SDKs of a function have in common, and the action that is meant.
const AMBIGUOUS: [(&str, &str); 0] = [];

/// The methods of an SDK's client, and the action that each needs.
fn operations(packages: &Packages, sdk: &str) -> BTreeMap<String, String> {
    let name = sdk.trim_start_matches("aws-sdk-");
    let service = SERVICES.iter().find(|(of, _)| *of == name).map_or(name, |(_, service)| service);
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(packages.folder(sdk).unwrap().join("src/client")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let Some(call) =
            text.split("fluent builder for the [`").nth(1).and_then(|rest| rest.split('`').next())
        else {
            continue;
        };
        let right = format!("{service}:{call}");
        let right = RENAMED.iter().find(|(of, _)| *of == right).map_or(right, |(_, name)| (*name).to_owned());
        found.insert(path.file_stem().unwrap().to_string_lossy().into_owned(), right);
    }
    assert!(found.len() > 2, "{sdk} has {} calls", found.len());
    found
}

/// The actions that the code of `package` needs.
fn needed(packages: &Packages, package: &str) -> BTreeSet<String> {
    let parts = packages.parts(package, |name| packages.is_own(name) || name.starts_with("aws-sdk-"));
    let (sdks, own): (Vec<&String>, Vec<&String>) =
        parts.iter().partition(|part| part.starts_with("aws-sdk-"));
    let mut rights: BTreeMap<String, String> = BTreeMap::new();
    let mut ambiguous = BTreeSet::new();
    for (method, right) in sdks.iter().flat_map(|sdk| operations(packages, sdk)) {
        if rights.insert(method.clone(), right).is_some() {
            ambiguous.insert(method);
        }
    }
    let reached = reached(packages, package, &own);
    asked(&reached.iter().collect::<Vec<_>>(), &rights, &ambiguous)
}

/// The functions of `own`, the project's packages of which `package` consists, that `package` can reach.
pub(crate) fn reached(packages: &Packages, package: &str, own: &[&String]) -> Vec<SourceFunction> {
    let functions: Vec<SourceFunction> = own
        .iter()
        .flat_map(|part| code::functions(part, &packages.folder(part).unwrap().join("src")).unwrap())
        .collect();
    let below: BTreeMap<&str, BTreeSet<String>> =
        own.iter().map(|part| (part.as_str(), packages.parts(part, |name| packages.is_own(name)))).collect();
    // A package can call only the packages that it depends on, whatever the names of their functions.
    let reached = code::reached(
        &functions,
        |one| one.package == package,
        |from, to| below[from.package.as_str()].contains(&to.package),
    );
    reached.into_iter().cloned().collect()
}

/// The actions that `functions` need, given the action of each method of an SDK.
fn asked(
    functions: &[&SourceFunction],
    rights: &BTreeMap<String, String>,
    ambiguous: &BTreeSet<String>,
) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    for function in functions {
        for method in &function.begins {
            let known = AMBIGUOUS.iter().find(|(of, _)| of == method && ambiguous.contains(method));
            let is_known = known.is_some() || !ambiguous.contains(method);
            assert!(is_known, "{} calls {method}, which two SDKs have: add it to AMBIGUOUS", function.name);
            needed
                .extend(known.map(|(_, right)| (*right).to_owned()).or_else(|| rights.get(method).cloned()));
        }
        let further = FURTHER.iter().filter(|(method, _)| function.calls.contains(*method));
        needed.extend(further.map(|(_, right)| (*right).to_owned()));
    }
    needed
}

/// Actions that a role allows, without those that every function needs.
fn allowed(role: &str) -> BTreeSet<String> {
    let lines = role.lines().map(str::trim);
    let lists = lines.filter_map(|line| line.strip_prefix("Action:")).flat_map(|list| list.split(','));
    let actions = lists.map(|action| action.trim_matches([' ', '[', ']']));
    actions
        .filter(|action| !action.is_empty() && !action.starts_with("logs:") && *action != "sts:AssumeRole")
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_role_allows_what_its_function_calls_and_nothing_else() {
    let packages = Packages::of_workspace().unwrap();
    let template = template::read().unwrap();
    let resources = template::resources(&template);
    let mut seen = BTreeSet::new();
    for (name, text) in resources.iter().filter(|(_, text)| text.contains("AWS::Serverless::Function")) {
        let function =
            text.split("CodeUri: functions/").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        let role = text.split("Role: !GetAtt ").nth(1).and_then(|rest| rest.split('.').next()).unwrap();
        assert_eq!(Some(role), name.strip_suffix("Function").map(|stem| format!("{stem}Role")).as_deref());
        let mut expected = needed(&packages, function);
        // AWS performs further actions with the role's permissions: no line of code shows them.
        let implied = UNUSED.iter().filter(|(of, _, _)| *of == function);
        expected.extend(implied.map(|(_, action, _)| (*action).to_owned()));
        assert_eq!(
            allowed(&resources[role]),
            expected,
            "{function}: its role must allow exactly what it calls"
        );
        seen.insert(function);
    }
    // A function without a program is not deployed.
    let folders = std::fs::read_dir(local::system::process::workspace().join("functions")).unwrap();
    let programs = folders.filter(|folder| folder.as_ref().unwrap().path().join("src/main.rs").is_file());
    assert_eq!(seen.len(), programs.count());
}

/// The test above depends on this.
#[test]
fn a_call_is_found_however_it_is_written() {
    let rights = BTreeMap::from([("delete_db_instance".to_owned(), "rds:DeleteDBInstance".to_owned())]);
    let calls = [
        "client.delete_db_instance().db_instance_identifier(id).send().await?;",
        "let call = self.rds.delete_db_instance(); wait(call.send()).await;",
        "let (a, b) = tokio::join!(other(), async { client.delete_db_instance().send().await });",
        "ids.iter().map(|id| client.delete_db_instance().db_instance_identifier(id));",
    ];
    for call in calls {
        let text = format!(
            "impl App {{ async fn run(&self) {{ helper(); }} }} fn helper() {{ async {{ {call} }}; }}"
        );
        let functions = code::parsed("a", &text).unwrap();
        let reached = code::reached(&functions, |one| one.name == "run", |_, _| true);
        let found = asked(&reached, &rights, &BTreeSet::new());
        assert_eq!(found, BTreeSet::from(["rds:DeleteDBInstance".to_owned()]), "{call}");
    }
    let in_a_test = "#[cfg(test)] mod tests { fn run() { client.delete_db_instance().send(); } }";
    assert_eq!(code::parsed("a", in_a_test).unwrap(), []);
}

/// Statements whose actions AWS does not support on a narrower resource.
const ANY_RESOURCE: [&str; 4] = ["ReadQuotas", "ReadMetrics", "JoinVpc", "ListStreams"];

#[test]
fn a_right_on_everything_is_one_that_aws_does_not_narrow() {
    let template = template::read().unwrap();
    let mut sid = "";
    for line in template.lines().map(str::trim) {
        sid = line.strip_prefix("- Sid: ").unwrap_or(sid);
        if line == "Resource: \"*\"" {
            assert!(ANY_RESOURCE.contains(&sid) || sid == "DenyToCode", "{sid} is allowed on every resource");
        }
    }
}

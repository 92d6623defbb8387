//! AWS's limits on names, texts, variables, policies and concurrency, against the expanded templates with the longest
//! values that their parameters accept. docs/AWS_FACTS.md has the sources.

use local::aws::event_source::MappingOptions;
use local::aws::lambda::timeout_of;
use local::system::intake::OF_PLACE;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tests::expanded::{
    Deployment, LONGEST_STACK, Resources, deployments, expand, store_deployments, translated,
};

fn page(name: &str) -> String {
    std::fs::read_to_string(local::system::process::workspace().join(name)).unwrap()
}

/// The longest value of each parameter that has a text of any length up to `MaxLength`.
fn longest(template: &str) -> BTreeMap<String, String> {
    let parameters = translated()[template]["Parameters"].as_object().unwrap();
    let lengths = parameters.iter().filter_map(|(name, one)| {
        let length = one["MaxLength"].as_u64().or_else(|| one["MaxLength"].as_str()?.parse().ok())?;
        Some((name.clone(), usize::try_from(length).unwrap()))
    });
    // A key of a key set has a quotation mark in every eighth place, the closest of all kinds of keys.
    let fill = |name: &str, length: usize| {
        let unit = if name == "TokenJwks" || name == "SnapshotPolicy" { "\"abcdefg" } else { "abcdefgh" };
        unit.chars().cycle().take(length).collect::<String>()
    };
    lengths.map(|(name, length)| (name.clone(), fill(&name, length))).collect()
}

/// Every deployment with the longest stack name and the longest parameters.
fn longest_deployments() -> Vec<(String, Resources)> {
    let stretch = |template: &str, mut one: Deployment| {
        one.stack = "s".repeat(LONGEST_STACK);
        // Not the regions: they decide the role.
        let given = longest(template).into_iter().filter(|(name, _)| !name.ends_with("Region"));
        let given: Vec<_> = given.filter(|(name, _)| one.parameters.contains_key(name)).collect();
        one.parameters.extend(given);
        (one.name.clone(), expand(template, &one).unwrap())
    };
    let functions = deployments().unwrap().into_iter().map(|one| stretch("template", one));
    functions.chain(store_deployments().into_iter().map(|one| stretch("stores", one))).collect()
}

fn of_type<'a>(resources: &'a Resources, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let found = resources.iter().filter(move |(_, one)| one["Type"] == kind);
    found.map(|(name, one)| (name.as_str(), &one["Properties"]))
}

/// A type, a property with a text, and the most characters.
const LONGEST_TEXTS: [(&str, &str, usize); 15] = [
    ("AWS::ApiGatewayV2::Api", "Name", 128),
    ("AWS::ApiGatewayV2::Api", "Description", 1024),
    ("AWS::ApiGatewayV2::Authorizer", "Name", 128),
    ("AWS::ApiGatewayV2::Stage", "StageName", 128),
    ("AWS::CloudWatch::Alarm", "AlarmName", 255),
    ("AWS::CloudWatch::Alarm", "AlarmDescription", 1024),
    ("AWS::CloudWatch::Dashboard", "DashboardName", 255),
    ("AWS::DynamoDB::GlobalTable", "TableName", 255),
    ("AWS::DynamoDB::Table", "TableName", 255),
    ("AWS::IAM::ManagedPolicy", "Description", 1000),
    ("AWS::Lambda::Alias", "Name", 128),
    ("AWS::Lambda::Function", "Description", 256),
    ("AWS::Lambda::Function", "FunctionName", 64),
    ("AWS::Lambda::Version", "Description", 256),
    ("AWS::Logs::LogGroup", "LogGroupName", 512),
];
/// The most characters of all inline policies of a role, and of a managed policy, both without white space.
const INLINE_POLICIES: usize = 10_240;
const MANAGED_POLICY: usize = 6_144;

#[test]
fn names_and_policies_fit_into_awss_limits() {
    let mut longest_name = 0;
    let mut largest = (0, String::new());
    for (deployment, resources) in longest_deployments() {
        for (name, resource) in &resources {
            let kind = resource["Type"].as_str().unwrap();
            for (property, value) in resource["Properties"].as_object().into_iter().flatten() {
                let is_name =
                    property.ends_with("Name") && kind.ends_with(property.strip_suffix("Name").unwrap());
                let limit = LONGEST_TEXTS.iter().find(|(of, one, _)| *of == kind && one == property);
                assert!(!is_name || limit.is_some(), "{name}: what is the limit of {kind}'s {property}?");
                let (Some((_, _, limit)), Some(text)) = (limit, value.as_str()) else { continue };
                assert!(text.len() <= *limit, "{deployment}: {name}: {property} has {}: {text}", text.len());
                longest_name = longest_name.max(if property == "FunctionName" { text.len() } else { 0 });
            }
        }
        for (name, role) in of_type(&resources, "AWS::IAM::Role") {
            let policies = role["Policies"].as_array().into_iter().flatten();
            let size = policies.map(|one| one["PolicyDocument"].to_string().len()).sum();
            assert!(size <= INLINE_POLICIES, "{deployment}: the policies of {name} have {size} characters");
            largest = largest.max((size, name.to_owned()));
        }
        for (name, policy) in of_type(&resources, "AWS::IAM::ManagedPolicy") {
            let size = policy["PolicyDocument"].to_string().len();
            assert!(size <= MANAGED_POLICY, "{deployment}: {name} has {size} characters");
        }
    }
    assert_eq!(longest_name, 64, "LONGEST_STACK is not the longest possible name");
    println!("largest role: {largest:?}");
    let documented = format!("A stack's name may have {LONGEST_STACK} characters");
    assert!(page("docs/DEPLOYING.md").contains(&documented));
    let documented = format!("| name of a stack | | {LONGEST_STACK} | characters |");
    assert!(page("docs/LIMITS.md").contains(&documented));
}

/// `make token-jwks` must print nothing that CloudFormation then refuses.
#[test]
fn token_jwks_takes_as_many_characters_as_its_parameter() {
    let template = longest("template")["TokenJwks"].len();
    let text = page("shared/examples/token-jwks.rs");
    let constant = text.split("const MAX_CHARACTERS: usize = ").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(constant.replace('_', "").parse::<usize>().unwrap(), template);
    let documented = constant.replace('_', ",");
    for (file, words) in [
        ("docs/IDENTITY.md", format!("`TokenJwks`, which takes {documented} characters")),
        ("docs/IDENTITY.md", format!("**A set of more than {documented} characters** fits")),
        ("docs/LIMITS.md", format!("The template accepts {documented} characters of")),
    ] {
        assert!(page(file).contains(&words), "{file}: {words}");
    }
}

/// In bytes, for the names and values of all variables of a function.
const VARIABLES: usize = 4_096;

#[test]
fn variables_of_a_function_fit_into_4_kb() {
    let bounded = longest("template");
    let mut largest = (0, String::new());
    for (deployment, resources) in longest_deployments() {
        for (name, function) in of_type(&resources, "AWS::Lambda::Function") {
            let variables: &Map<String, Value> = function["Environment"]["Variables"].as_object().unwrap();
            let size = serde_json::to_string(variables).unwrap().len();
            assert!(size <= VARIABLES, "{deployment}: {name} has {size} bytes of variables");
            largest = largest.max((size, name.to_owned()));
        }
    }
    println!("most variables: {largest:?}");
    // A text without a limit could be longer than what was tried above.
    let declared = translated()["template"]["Parameters"].as_object().unwrap();
    let texts = translated()["template"]["Resources"].as_object().unwrap();
    let texts = texts.values().filter(|one| one["Type"] == "AWS::Lambda::Function");
    let texts: String = texts.map(|one| one["Properties"]["Environment"].to_string()).collect();
    for (name, one) in declared {
        let is_used =
            texts.contains(&format!(r#"{{"Ref":"{name}"}}"#)) || texts.contains(&format!("${{{name}}}"));
        let pattern = one["AllowedPattern"].as_str().unwrap_or_default();
        // ... unless its pattern or its list limits it.
        let is_bounded = bounded.contains_key(name)
            || one["Type"] == "Number"
            || one.get("AllowedValues").is_some()
            || (pattern.contains('{') && !pattern.contains(['+', '*']));
        assert!(!is_used || is_bounded, "{name} is in a function's variables, and has no MaxLength");
    }
}

/// What Lambda keeps for functions without a reservation.
const UNRESERVED: u64 = 100;

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A failover and a drill may each execute for the whole time limit.
#[test]
fn a_failover_and_a_drill_leave_executions_for_the_schedule_and_for_an_operator() {
    let mut reservations = Vec::new();
    for one in deployments().unwrap().iter().filter(|one| one.name.ends_with("every option")) {
        let resources = expand("template", one).unwrap();
        let Some(function) = resources.get("RegionFailoverFunction") else { continue };
        reservations.extend(number(&function["Properties"]["ReservedConcurrentExecutions"]));
    }
    assert!(
        !reservations.is_empty() && reservations.iter().all(|reserved| *reserved >= 4),
        "{reservations:?}"
    );
}

#[test]
fn reserved_concurrency_leaves_what_lambda_needs() {
    let documented = page("docs/DEPLOYING.md");
    for one in deployments().unwrap().iter().filter(|one| one.name.ends_with("every option")) {
        let resources = expand("template", one).unwrap();
        let functions = of_type(&resources, "AWS::Lambda::Function").filter_map(|(_, function)| {
            let reserved = number(&function["ReservedConcurrentExecutions"])?;
            Some((function["FunctionName"].as_str()?.trim_start_matches("fairdrop-").to_owned(), reserved))
        });
        let functions: BTreeMap<String, u64> = functions.collect();
        let now: u64 = functions.values().sum();
        let (role, most) = match one.name.split(',').next().unwrap() {
            "single" | "use1" => ("main", now),
            "usw2" => {
                // After a failover.
                let after = resources["RegionFailoverFunction"]["Properties"]["Environment"]["Variables"]
                    ["FAIRDROP_MAIN_CONCURRENCY"]
                    .as_str()
                    .unwrap();
                let after: BTreeMap<String, u64> = after
                    .split(',')
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(name, executions)| (name.to_owned(), executions.parse().unwrap()))
                    .collect();
                // The functions that are parked there get what they have in main.
                for (name, _) in functions.iter().filter(|(_, reserved)| **reserved == 0) {
                    assert_eq!(after.get(name), main_concurrency(name).as_ref(), "{name} after a failover");
                }
                ("standby", now + after.values().sum::<u64>())
            }
            _ => ("edge", now),
        };
        let row = documented.lines().find(|line| line.starts_with(&format!("| {role} | 6 "))).unwrap();
        assert!(row.contains(&format!(": {now}")), "{}: {now} are reserved: {row}", one.name);
        assert!(row.ends_with(&format!("| {} |", most + UNRESERVED)), "{}: {most} + 100: {row}", one.name);
    }
    // Without reservations the stack fits into any quota.
    for one in deployments().unwrap() {
        let resources =
            expand("template", &one.with("no reservations", &[("ReserveConcurrency", "false")])).unwrap();
        for (name, function) in of_type(&resources, "AWS::Lambda::Function") {
            let reserved = number(&function["ReservedConcurrentExecutions"]).unwrap_or_default();
            assert_eq!(reserved, 0, "{}: {name}", one.name);
        }
    }
}

/// What a function has in main.
fn main_concurrency(name: &str) -> Option<u64> {
    let one = deployments().unwrap().into_iter().find(|one| one.name == "use1").unwrap();
    let resources = expand("template", &one).unwrap();
    let function = of_type(&resources, "AWS::Lambda::Function")
        .find(|(_, function)| function["FunctionName"] == format!("fairdrop-{name}"))?;
    number(&function.1["ReservedConcurrentExecutions"])
}

#[test]
fn the_stand_ins_have_the_templates_limits() {
    let deployed = deployments().unwrap();
    let mut expanded = deployed.iter().map(|one| expand("template", one).unwrap());
    let resources = expanded
        .find(|one| one.contains_key("OrderPlaceFunction") && one.contains_key("OrderConfirmFunction"));
    let resources = resources.unwrap();
    let mut compared = 0;
    for (_, function) in of_type(&resources, "AWS::Lambda::Function") {
        let name = function["FunctionName"].as_str().unwrap().strip_prefix("fairdrop-").unwrap();
        if let Some(timeout) = timeout_of(name) {
            assert_eq!(number(&function["Timeout"]), Some(timeout.as_secs()), "{name}");
            compared += 1;
        }
        if name == "order-place" {
            let processes = u64::from(OF_PLACE.most);
            assert_eq!(number(&function["ReservedConcurrentExecutions"]), Some(processes));
        }
    }
    assert!(compared >= 4, "{compared}");
    let mapping = MappingOptions::order_place();
    let (_, own) = of_type(&resources, "AWS::Lambda::EventSourceMapping").next().unwrap();
    assert_eq!(number(&own["BatchSize"]), Some(mapping.batch_size as u64));
    assert_eq!(number(&own["MaximumBatchingWindowInSeconds"]), Some(mapping.window.as_secs()));
    assert_eq!(number(&own["ParallelizationFactor"]), Some(mapping.parallel));
    assert_eq!(Some(mapping.invoke_limit), timeout_of("order-place"));
}

#[test]
fn the_costs_count_every_alarm() {
    let plain = deployments()
        .unwrap()
        .into_iter()
        .filter(|one| ["use1", "usw2", "euw1"].contains(&one.name.as_str()));
    let alarms: usize =
        plain.map(|one| of_type(&expand("template", &one).unwrap(), "AWS::CloudWatch::Alarm").count()).sum();
    let counted = format!("{alarms} * PRICE[\"alarm\"]");
    assert!(page("docs/costs.py").contains(&counted), "main, standby and an edge have {alarms} alarms");
}

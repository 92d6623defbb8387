//! The alarms of the template, as CloudWatch evaluates them. docs/AWS_FACTS.md has the sources of these rules.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tests::expanded::{deployments, expand};
use tests::template;

/// The alarms of the template by name, each with its text.
fn alarms() -> BTreeMap<String, String> {
    let resources = template::resources(&template::read().unwrap());
    resources.into_iter().filter(|(_, text)| text.contains("Type: AWS::CloudWatch::Alarm")).collect()
}

/// The number in a property of a resource.
fn number(text: &str, property: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(property)?.strip_prefix(": "))?;
    Some(line.parse().unwrap())
}

/// FILL replaces a value that arrives late, so the newest value of an alarm may always be the filled one: an alarm
/// that needs every value would never go off, or never end.
#[test]
fn an_alarm_on_fill_tolerates_a_late_newest_value() {
    let mut checked = 0;
    for (name, text) in alarms().iter().filter(|(_, text)| text.contains("FILL(")) {
        let periods = number(text, "EvaluationPeriods").unwrap();
        let to_alarm = number(text, "DatapointsToAlarm").unwrap_or(periods);
        assert!(to_alarm < periods, "{name} needs {to_alarm} of {periods} values, and uses FILL");
        checked += 1;
    }
    assert!(checked >= 5, "{checked}");
}

/// No document says what FILL returns for a metric that was never written. Every function is invoked at least once a day.
#[test]
fn an_alarm_reads_no_function_that_the_deployment_does_not_have() {
    let mut checked = 0;
    for deployment in deployments().unwrap() {
        let resources = expand("template", &deployment).unwrap();
        let name_of = |resource: &Value| resource["Properties"]["FunctionName"].as_str().map(str::to_owned);
        let functions: BTreeSet<String> = resources.values().filter_map(name_of).collect();
        for (id, alarm) in resources.iter().filter(|(_, one)| one["Type"] == "AWS::CloudWatch::Alarm") {
            let text = alarm["Properties"].to_string();
            for rest in text.split(r#""Name":"FunctionName","Value":""#).skip(1) {
                let read = rest.split('"').next().unwrap();
                assert!(functions.contains(read), "{}: {id} reads {read}", deployment.name);
                checked += 1;
            }
            // Each metric that is read is used, and each that is used is read.
            let expression = alarm["Properties"]["Metrics"][0]["Expression"].as_str().unwrap_or_default();
            let filled = expression.matches("FILL(").count();
            let read = text.matches(r#""MetricStat":"#).count();
            assert!(filled == 0 || filled == read, "{}: {id}: {expression}", deployment.name);
        }
    }
    assert!(checked >= 20, "{checked}");
}

/// So `function-errors` and `function-throttles` cannot cover all functions (docs/runbook/functions.md).
#[test]
fn no_alarm_has_more_metrics_than_cloudwatch_allows() {
    let most = alarms().into_iter().map(|(name, text)| (text.matches("MetricStat:").count(), name)).max();
    let (metrics, name) = most.unwrap();
    assert!((9..=10).contains(&metrics), "{name} has {metrics} metrics, and CloudWatch allows 10");
}

/// The linters do not parse queries of Metrics Insights.
#[test]
fn metrics_insights_queries_have_no_or() {
    let mut checked = 0;
    for (name, text) in alarms() {
        let Some(query) = text.split("SELECT ").nth(1) else { continue };
        let query = query.split("Label:").next().unwrap();
        assert!(!query.split_whitespace().any(|word| word.eq_ignore_ascii_case("or")), "{name}: {query}");
        checked += 1;
    }
    assert!(checked >= 7, "{checked}");
}

/// A misspelt reason would match nothing, or exclude nothing.
#[test]
fn reasons_in_alarms_are_slugs_of_problems() {
    let page = local::system::process::workspace().join("docs/PROBLEMS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let is_reason = |one: char| one.is_ascii_lowercase() || one == '-';
    let mut checked = 0;
    for (name, text) in alarms() {
        for start in ["Reason != '", "{Name: Reason, Value: "] {
            for rest in text.split(start).skip(1) {
                let reason = rest.split(|one: char| !is_reason(one)).next().unwrap();
                assert!(page.contains(&format!("| `{reason}` |")), "{name}: {reason:?}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 7, "{checked}");
}

/// Two stacks in one region would otherwise share an alarm's metric.
#[test]
fn every_metric_of_fairdrop_is_read_with_its_stack() {
    let resources = template::resources(&template::read().unwrap());
    let mut checked = 0;
    let mut check = |name: &str, text: &str, wanted: &str| {
        assert!(text.contains(wanted), "{name} lacks {wanted}: {text}");
        checked += 1;
    };
    for (name, text) in alarms() {
        let of_stack = "{Name: Stack, Value: !Ref AWS::StackName}";
        for line in text.lines().filter(|line| line.contains("Namespace: fairdrop,")) {
            check(&name, line, of_stack);
        }
        if text.contains("      Namespace: fairdrop\n") {
            let dimensions = text.lines().find(|line| line.starts_with("      Dimensions: ")).unwrap();
            check(&name, dimensions, of_stack);
        }
        if let Some(query) = text.split("SCHEMA(fairdrop").nth(1) {
            check(&name, query.split(')').next().unwrap(), ", Stack");
            check(&name, query, " AND Stack = '${AWS::StackName}'");
        }
    }
    for line in resources["Dashboard"].lines() {
        if line.contains(r#"["fairdrop", "#) {
            check("Dashboard", line, r#""Stack", "${AWS::StackName}""#);
        }
        if line.contains("'{fairdrop,") {
            check("Dashboard", line, r#",Stack} "#);
            check("Dashboard", line, r#"Stack=\"${AWS::StackName}\""#);
        }
    }
    assert!(checked >= 50, "{checked}");
}

/// A payment notice that Lambda gives up is money that fairdrop has not recorded.
#[test]
fn payments_that_lambda_gives_up_set_off_an_alarm() {
    let resources = template::resources(&template::read().unwrap());
    let mut checked = 0;
    for text in resources.values().filter(|text| text.contains("          OnFailure:")) {
        let function = text.split("FunctionName: !Sub ${AWS::StackName}-").nth(1).unwrap();
        let function = function.lines().next().unwrap();
        for metric in ["AsyncEventsDropped", "DestinationDeliveryFailures"] {
            let of_function = format!("Value: !Sub \"${{AWS::StackName}}-{function}\"");
            let is_watched = |alarm: &String| {
                alarm.contains(&format!("MetricName: {metric}\n")) && alarm.contains(&of_function)
            };
            assert!(alarms().values().any(is_watched), "{function}: {metric}");
        }
        checked += 1;
    }
    assert_eq!(checked, 1, "order-confirm");
}

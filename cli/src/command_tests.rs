use super::Function::{DropAdmin, RegionFailover, ReplicaLag, RestoreDrill, SnapshotCopy};
use crate::options::Options;
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn events() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../events")
}

fn sample(name: &str) -> Value {
    let text = std::fs::read_to_string(events().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn parse(line: &str) -> Options {
    Options::try_parse_from(["fairdrop"].into_iter().chain(line.split(' ')))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What a command line sends: the function's name and the payload.
fn sent(line: &str) -> (String, Value) {
    let call = parse(line).action.command().unwrap().call();
    (call.function.name().to_owned(), call.payload)
}

const FORCED: &str = "failover run --mode forced --accept-seconds 30 --accept-sales 12 --withhold 12";
/// A sample of `events/`, and the command line that sends it.
const SAMPLES: [(&str, &str); 45] = [
    (
        "drop-admin.create",
        "create sneaker-42 --name Sneaker_42 --stock-total 500 --opens-at 2026-11-24T06:00:00Z --closes-at 1795503600000000 --hold-seconds 0",
    ),
    ("drop-admin.update", "update sneaker-42 --stock-total 600"),
    (
        "drop-admin.update-reopen",
        "update sneaker-42 --stock-total 700 --opens-at 2026-12-24T06:00:00Z --closes-at 2026-12-24T07:00:00Z",
    ),
    ("drop-admin.update-serve-waiting", "update sneaker-42 --stock-total 600 --serve-waiting"),
    ("drop-admin.pause", "pause sneaker-42"),
    ("drop-admin.resume", "resume sneaker-42"),
    ("drop-admin.close", "close sneaker-42"),
    ("drop-admin.finish", "finish sneaker-42"),
    ("drop-admin.archive", "archive sneaker-42"),
    ("drop-admin.describe", "describe sneaker-42"),
    ("drop-admin.list", "list"),
    ("drop-admin.migrate", "migrate"),
    ("drop-admin.lease", "lease"),
    ("drop-admin.ledger_restored", "ledger-restored"),
    ("drop-admin.sell_withheld", "sell-withheld sneaker-42 --keep 0"),
    ("drop-admin.rebuild", "rebuild sneaker-42"),
    ("drop-admin.replay", "replay sneaker-42"),
    ("drop-admin.order_book", "order-book sneaker-42 --format csv"),
    ("drop-admin.reconcile", "reconcile sneaker-42 --repair"),
    ("drop-admin.audit", "audit sneaker-42 --format csv"),
    ("drop-admin.export", "export sneaker-42 --by Ann --format csv"),
    ("drop-admin.republish", "republish sneaker-42 --from 1"),
    ("drop-admin.exclude", "exclude sneaker-42 --reason bots --by Ann auth0|6532 auth0|6533"),
    ("drop-admin.limit_unpaid", "limit-unpaid sneaker-42 3"),
    ("drop-admin.void", "void sneaker-42 auth0|6532 --reason stolen_card --bar --by Ann"),
    ("drop-admin.erase", "erase auth0|6532 --by Ann"),
    ("drop-admin.export-voided", "export sneaker-42 --by Ann --voided"),
    ("region-failover.plan", "failover plan --mode planned"),
    ("region-failover.plan-forced", "failover plan --mode forced"),
    ("region-failover.readiness", "failover readiness"),
    ("region-failover.run", "failover run --mode planned"),
    ("region-failover.run-forced", FORCED),
    ("region-failover.status", "failover status"),
    ("region-failover.resume", "failover resume"),
    ("region-failover.abort", "failover abort"),
    ("region-failover.report", "failover report"),
    ("region-failover.compare", "failover compare"),
    ("region-failover.use-redis", "failover use-redis spare-fairdrop.abc123.usw2.cache.amazonaws.com:6379"),
    ("region-failover.without-log", "failover without-log us-east-1"),
    ("region-failover.waive", "failover waive fence_old_main --why the_old_main's_instance_was_deleted"),
    ("region-failover.drill", "failover drill"),
    ("replica-lag.observe", "replica"),
    ("snapshot-copy.dry-run", "snapshots"),
    ("restore-drill.dry-run", "restore-drill"),
    ("restore-drill.run", "restore-drill --run"),
];

/// Underscores stand for the spaces that the command lines above cannot have, and a default that a sample states is no
/// difference.
fn comparable(mut payload: Value) -> Value {
    for pointer in ["/item/name", "/why", "/reason"] {
        if let Some(Value::String(text)) = payload.pointer_mut(pointer) {
            *text = text.replace('_', " ");
        }
    }
    if payload["skip_cooldown"] == false {
        payload.as_object_mut().unwrap().remove("skip_cooldown");
    }
    payload
}

#[test]
fn the_command_lines_send_the_samples() {
    for (name, line) in SAMPLES {
        let (function, payload) = sent(line);
        assert_eq!(function, name.split_once('.').unwrap().0, "{line}");
        assert_eq!(comparable(payload), comparable(sample(name)), "{line}");
    }
}

#[test]
fn every_operators_sample_has_a_command_line() {
    let known: BTreeSet<&str> = SAMPLES.iter().map(|(name, _)| *name).collect();
    for entry in std::fs::read_dir(events()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".json") else { continue };
        // The schedule's command; operators use `resume`.
        let is_operators =
            ["drop-admin.", "region-failover.", "restore-drill."].iter().any(|one| name.starts_with(one));
        assert!(
            !is_operators || known.contains(name) || name == "region-failover.schedule",
            "no command line sends events/{file}: give cli/src/command.rs one"
        );
    }
}

#[test]
fn the_command_line_is_sound_and_every_option_has_a_help_text() {
    let mut options = Options::command();
    options.build();
    options.clone().debug_assert();
    let mut commands = vec![options];
    while let Some(command) = commands.pop() {
        let name = command.get_name().to_owned();
        assert!(command.get_about().is_some() || name == "help", "{name} has no description");
        for argument in command
            .get_arguments()
            .filter(|one| !["item_id", "help", "version"].contains(&one.get_id().as_str()))
        {
            let is_described = argument.get_help().is_some() || name == "completion" || name == "help";
            assert!(is_described, "{name} {} has no help", argument.get_id());
        }
        commands.extend(command.get_subcommands().cloned());
    }
}

#[test]
fn mistakes_are_found_before_anything_is_sent() {
    for wrong in [
        "describe",
        "update sneaker-42",
        "create x --name X --stock-total 1 --opens-at tomorrow --hold-seconds 600",
        "create x --name X --stock-total -1 --opens-at 1795500000000000 --hold-seconds 600",
        "create x --name X --stock-total 1 --opens-at 1795500000000000",
        "--account 12345 list",
        "sell-withheld x",
        "void x ann",
        "erase ann",
        "exclude x --reason bots",
        "failover run",
        "failover run --mode forced --accept-seconds 3",
        "failover waive fence_old_main",
        "failover run --mode planned --wait-minutes 721",
        "audit x --format page",
        "invoke drop-admin {",
        "--local http://127.0.0.1:1 --region us-east-1 list",
        "destroy x",
    ] {
        let parsed = Options::try_parse_from(["fairdrop"].into_iter().chain(wrong.split(' ')));
        assert_eq!(parsed.expect_err(wrong).exit_code(), 2, "{wrong}");
    }
}

#[test]
fn what_cannot_be_undone_asks() {
    let asks = |line: &str| parse(line).action.command().unwrap().cannot_be_undone().is_some();
    for line in [
        "close x",
        "create x --name X --stock-total 1 --opens-at 4102444800000000 --hold-seconds 0",
        "create x --name X --stock-total 1 --opens-at 2026-01-01T00:00:00Z --hold-seconds 600",
        "update x --stock-total 3",
        "update x --name X --closes-at 4102444800000000",
        "update x --opens-at 4102444800000000",
        "update x --hold-seconds 0",
        "invoke drop-admin {\"command\":\"list\"}",
        "finish x",
        "archive x",
        "rebuild x",
        "exclude x --reason bots ann",
        "limit-unpaid x 1",
        "void x ann --reason fraud",
        "erase ann --by Ann",
        "reconcile --repair",
        "sell-withheld x --keep 0",
        "replay x --without eu-west-1",
        "migrate",
        "ledger-restored",
        "failover run --mode planned",
        "failover waive fence_old_main --why x",
        "failover use-redis spare:6379",
        "failover without-log us-east-1",
    ] {
        assert!(asks(line), "{line}");
    }
    for line in [
        "describe x",
        "pause x",
        "resume x",
        "create x --name X --stock-total 1 --opens-at 4102444800000000 --hold-seconds 600",
        "update x --name X --hold-seconds 60 --max-hold-seconds 600",
        "reconcile x",
        "audit x",
        "order-book x",
        "replay x",
        "limit-unpaid x 0",
        "failover abort",
    ] {
        assert!(!asks(line), "{line}");
    }
}

#[test]
fn an_audit_goes_on_after_the_last_sale_of_a_page_and_stops_at_a_page_out_of_order() {
    let options = parse("audit x");
    let audit = options.action.command().unwrap();
    let cursor = json!({ "number": 10_000, "reserved_at": 1, "placed_at": 2, "buyer": "b" });
    let page = json!({ "in_order": true, "next": cursor, "sales": [] });
    let expected = json!({ "command": "audit", "item_id": "x", "format": "json", "after": cursor });
    assert_eq!(audit.next(&page), Some(expected));
    assert!(audit.verdict(&page).is_ok());
    assert_eq!(audit.next(&json!({ "in_order": true, "next": null })), None);
    let wrong = json!({ "in_order": false, "next": cursor });
    assert_eq!(audit.next(&wrong), None);
    assert_eq!(audit.verdict(&wrong).unwrap_err().exit_code(), 1);
}

#[test]
fn a_comparison_sends_the_command_for_more_as_it_was_given() {
    let options = parse("failover compare");
    let more = json!({ "command": "compare", "skip": 1_000 });
    assert_eq!(options.action.command().unwrap().next(&json!({ "more": more })), Some(more));
    assert_eq!(options.action.command().unwrap().next(&json!({ "more": null })), None);
}

#[test]
fn the_question_before_a_failover_names_what_the_operator_accepts() {
    let question = |line: &str| parse(line).action.command().unwrap().cannot_be_undone().unwrap();
    let forced = question(&format!("{FORCED} --skip-cooldown --without-logs eu-west-1"));
    for part in ["forced", "30 s and 12 sales", "12 units of each item", "cooldown is skipped", "eu-west-1"] {
        assert!(forced.contains(part), "{forced}");
    }
    assert!(question("failover run --mode planned").contains("planned, without a loss"));
}

#[test]
fn a_reconciliation_and_a_republication_go_on_to_their_last_page() {
    let sent = |line: &str, answer: Value| parse(line).action.command().unwrap().next(&answer);
    let next = json!({ "command": "reconcile", "repair": true, "after": "b" });
    assert_eq!(sent("reconcile --repair", json!({ "items": {}, "next": "b" })), Some(next));
    assert_eq!(sent("reconcile", json!({ "items": {}, "next": null })), None);
    let next = json!({ "command": "republish", "item_id": "x", "from": 50_001 });
    assert_eq!(sent("republish x --from 1", json!({ "events": 50_000, "next": 50_001 })), Some(next));
    assert_eq!(sent("republish x --from 1", json!({ "events": 7, "next": null })), None);
}

#[test]
fn an_item_that_could_not_be_compared_is_a_failure() {
    let options = parse("reconcile");
    let reconcile = options.action.command().unwrap();
    let item = |error: Option<&str>| json!({ "items": { "x": { "error": error } } });
    assert!(reconcile.verdict(&item(None)).is_ok());
    assert_eq!(reconcile.verdict(&item(Some("WRONGTYPE"))).unwrap_err().exit_code(), 1);
}

#[test]
fn an_audit_is_a_table_with_one_head() {
    let options = parse("audit x");
    let audit = options.action.command().unwrap();
    let sale = json!({
        "number": 1, "buyer": "ab12", "state": "sold", "placed_at": 1_795_500_000_000_042_u64, "region": "us-east-1",
        "reserved_at": 1_795_500_002_000_000_u64, "epoch": 1, "later_field": true,
    });
    let page = json!({ "item_id": "x", "stock_total": 5, "units_taken": 1, "in_order": true, "next": null, "sales": [sale] });
    let first = audit.show(&page, 0);
    assert!(first.starts_with("item_id"), "{first}");
    let last = first.lines().last().unwrap();
    assert!(
        last.starts_with("     1  ab12") && last.contains("06:00:00.000042 UTC") && last.ends_with("yes"),
        "{first}"
    );
    assert!(audit.show(&page, 1).starts_with("number"));
    assert_eq!(audit.show(&json!({ "csv": "number\n1\n", "in_order": true }), 0), "number\n1\n");
}

#[test]
fn answers_are_waited_for_as_long_as_the_template_lets_a_function_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../template.yaml");
    let template = std::fs::read_to_string(path).unwrap();
    for function in [DropAdmin, RegionFailover, ReplicaLag, RestoreDrill, SnapshotCopy] {
        let name = format!("      FunctionName: !Sub ${{AWS::StackName}}-{}\n", function.name());
        let (_, after) = template.split_once(&name).unwrap();
        let timeout = after.lines().find_map(|line| line.strip_prefix("      Timeout: ")).unwrap();
        assert_eq!(function.timeout().as_secs().to_string(), timeout, "{name}");
    }
}

#[test]
fn a_completion_knows_the_commands() {
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut Options::command(), "fairdrop", &mut script);
    let script = String::from_utf8(script).unwrap();
    assert!(script.contains("sell-withheld") && script.contains("use-redis"));
}

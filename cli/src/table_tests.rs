use super::*;
use serde_json::json;

#[test]
fn the_name_of_a_field_says_how_its_number_is_shown() {
    let cases = [
        ("opens_at", json!(1_795_500_000_000_000_u64), "2026-11-24 06:00:00 UTC"),
        ("main_time", json!(1_795_500_000_000_000_u64), "2026-11-24 06:00:00 UTC"),
        ("began_ms", json!(1_795_500_000_250_u64), "2026-11-24 06:00:00.250 UTC"),
        ("took_ms", json!(12_345), "12.345 s"),
        ("settle_window_ms", json!(50), "50 ms"),
        ("hold_seconds", json!(600), "600 s"),
        ("closes_at", json!(null), "-"),
        ("stock_left", json!(-3), "-3"),
        ("paused", json!(true), "yes"),
        ("items", json!([]), "-"),
        ("items", json!(["a", "b"]), "a, b"),
        ("differences", json!({ "only_in_redis": 2 }), "only_in_redis 2"),
    ];
    for (name, value, expected) in cases {
        assert_eq!(cell(name, &value), expected, "{name}");
    }
}

#[test]
fn known_fields_come_first_and_unknown_ones_are_not_lost() {
    let answer = json!({ "a": 1, "name": "Shoe", "ledger": { "sold": 2 }, "item_id": "x" });
    let text = fields(&answer, &["item_id", "name", "absent"]);
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join("=")).collect();
    assert_eq!(lines, ["item_id=x", "name=Shoe", "a=1", "ledger.sold=2"]);
}

#[test]
fn lists_of_objects_are_tables_below() {
    let answer =
        json!({ "state": "planned", "actions": [{ "reason": "due", "id": 1 }, { "id": 20, "extra": true }] });
    let text = fields(&answer, &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["state", "planned"]);
    assert_eq!(lines[2], "actions:");
    assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>(), ["extra", "id", "reason"]);
    assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["-", "1", "due"]);
    assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>(), ["yes", "20", "-"]);
}

#[test]
fn a_value_cannot_command_the_terminal() {
    assert_eq!(cell("name", &json!("a\u{1b}[2Jb")), "a\u{fffd}[2Jb");
}

#[test]
fn an_answer_that_is_no_object_is_shown_as_it_is() {
    assert_eq!(fields(&json!("done"), &[]), "done");
}

use super::*;
use serde_json::json;

fn condition(text: &str, values: Value) -> Result<Condition, Failure> {
    let request = json!({ "ConditionExpression": text, "ExpressionAttributeValues": values });
    let mut placeholders = Placeholders::of(&request)?;
    let condition = placeholders.condition(&request, "ConditionExpression")?;
    placeholders.must_be_used()?;
    Ok(condition.unwrap())
}

#[test]
fn conditions_hold_as_documented() {
    let item = json!({ "n": { "N": "5" }, "s": { "S": "abc" }, "t": { "BOOL": true } });
    let item = item.as_object().unwrap();
    let values = json!({ ":five": { "N": "5.0" }, ":ab": { "S": "ab" }, ":yes": { "BOOL": true } });
    for (text, holds) in [
        ("n = :five AND begins_with(s, :ab) AND t = :yes", true),
        ("n < :five OR begins_with(s, :ab) AND t = :yes", true),
        ("(n < :five OR begins_with(s, :ab)) AND NOT t = :yes", false),
        ("n between :five and :five and s > :ab and t = :yes", true),
        ("attribute_exists(n) AND attribute_not_exists(x) AND n <> :ab AND x <> :five AND t = :yes", true),
        ("x = :five OR n = :ab OR s = :yes", false),
    ] {
        assert_eq!(condition(text, values.clone()).map(|one| one.holds(item)), Ok(holds), "{text}");
    }
    let none = json!({ ":five": { "N": "5" } });
    for wrong in
        ["n = :five AND", "n :five", "n = :six", "a.b = :five", "n = :five )", "", "#n = :five", "n = n"]
    {
        assert!(condition(wrong, none.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn changes_are_applied_to_what_was_before() {
    let apply = |text: &str| {
        let request = json!({
            "UpdateExpression": text,
            "ExpressionAttributeValues": { ":one": { "N": "1" }, ":a": { "S": "a" } },
        });
        let changes = Placeholders::of(&request)?.changes(&request)?;
        let before = json!({ "n": { "N": "7" }, "s": { "S": "old" } }).as_object().unwrap().clone();
        let mut item = before.clone();
        changes.iter().try_for_each(|change| change.apply(&before, &mut item)).map(|()| Value::Object(item))
    };
    let changed = apply("SET s = :a, m = n - :one, k = if_not_exists(n, :a) ADD n :one").unwrap();
    let expected = json!({ "n": { "N": "8" }, "s": { "S": "a" }, "m": { "N": "6" }, "k": { "N": "7" } });
    assert_eq!(changed, expected);
    assert_eq!(apply("REMOVE s, n ADD v :one").unwrap(), json!({ "v": { "N": "1" } }));
    for wrong in
        ["SET x = y", "SET n = :a, n = :one", "ADD s :one", "PUT n = :one", "SET n", "SET n = s + :one"]
    {
        assert!(apply(wrong).is_err(), "{wrong}");
    }
}

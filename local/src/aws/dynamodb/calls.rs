//! The calls on items.

use super::expression::{Change, Placeholders};
use super::failure::Failure;
use super::table::{Table, key_condition, must_leave_keys};
use super::throughput::{Units, read_units, write_units};
use super::value::{self, Item};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

/// The most that a page of a query holds.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

type Answer = Result<Value, Failure>;

/// Members of requests that no call of this code sets. A request that has one is refused, instead of passed over.
const UNSUPPORTED: [&str; 8] = [
    "AttributeUpdates",
    "ConditionalOperator",
    "Expected",
    "IndexName",
    "KeyConditions",
    "QueryFilter",
    "ReturnItemCollectionMetrics",
    "AttributesToGet",
];

pub(super) fn must_be_supported(request: &Value) -> Result<(), Failure> {
    match UNSUPPORTED.iter().find(|name| !request[**name].is_null()) {
        Some(name) => Err(Failure::unsupported(name)),
        None => Ok(()),
    }
}

pub(super) fn put_item(table: &mut Table, request: &Value, chance: &mut SmallRng) -> Answer {
    let item = request["Item"].as_object().ok_or_else(|| Failure::validation("Item must not be null"))?;
    value::check_item(item)?;
    let key = table.key_of(item)?;
    let mut placeholders = Placeholders::of(request)?;
    let condition = placeholders.condition(request, "ConditionExpression")?;
    placeholders.must_be_used()?;
    let before = table.get(&key, true, chance).cloned();
    let bytes = value::item_bytes(item).max(before.as_ref().map_or(0, value::item_bytes));
    table.admit(&key.partition, Units::Write, write_units(bytes), chance)?;
    if condition.is_some_and(|condition| !condition.holds(&before.clone().unwrap_or_default())) {
        return Err(condition_failed(request, before));
    }
    table.replace(&key, Some(item.clone()), chance);
    returned(request, before, Some(item.clone()), &["ALL_OLD"])
}

pub(super) fn delete_item(table: &mut Table, request: &Value, chance: &mut SmallRng) -> Answer {
    let key = table.key_in(request, "Key")?;
    let mut placeholders = Placeholders::of(request)?;
    let condition = placeholders.condition(request, "ConditionExpression")?;
    placeholders.must_be_used()?;
    let before = table.get(&key, true, chance).cloned();
    let bytes = before.as_ref().map_or(0, value::item_bytes);
    table.admit(&key.partition, Units::Write, write_units(bytes), chance)?;
    if condition.is_some_and(|condition| !condition.holds(&before.clone().unwrap_or_default())) {
        return Err(condition_failed(request, before));
    }
    table.replace(&key, None, chance);
    returned(request, before, None, &["ALL_OLD"])
}

pub(super) fn update_item(table: &mut Table, request: &Value, chance: &mut SmallRng) -> Answer {
    let key = table.key_in(request, "Key")?;
    let mut placeholders = Placeholders::of(request)?;
    let changes = placeholders.changes(request)?;
    let condition = placeholders.condition(request, "ConditionExpression")?;
    placeholders.must_be_used()?;
    must_leave_keys(table, &changes)?;
    let before = table.get(&key, true, chance).cloned();
    let item = changed(table.key_attributes(&key), before.as_ref(), &changes);
    let after = item.as_ref().map_or(0, value::item_bytes);
    let bytes = after.max(before.as_ref().map_or(0, value::item_bytes));
    table.admit(&key.partition, Units::Write, write_units(bytes), chance)?;
    if condition.is_some_and(|condition| !condition.holds(&before.clone().unwrap_or_default())) {
        return Err(condition_failed(request, before));
    }
    let item = item?;
    value::check_item(&item)?;
    table.replace(&key, Some(item.clone()), chance);
    returned(request, before, Some(item), &["ALL_OLD", "ALL_NEW"])
}

/// The item after `changes`; one that did not exist begins with its keys.
fn changed(keys: Item, before: Option<&Item>, changes: &[Change]) -> Result<Item, Failure> {
    let before = before.cloned().unwrap_or(keys);
    let mut item = before.clone();
    changes.iter().try_for_each(|change| change.apply(&before, &mut item))?;
    Ok(item)
}

fn condition_failed(request: &Value, before: Option<Item>) -> Failure {
    let failure = Failure::new("ConditionalCheckFailedException", "The conditional request failed");
    match before.filter(|_| request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD") {
        Some(item) => failure.with("Item", Value::Object(item)),
        None => failure,
    }
}

/// The answer to a write.
fn returned(request: &Value, before: Option<Item>, after: Option<Item>, known: &[&str]) -> Answer {
    let wanted = request["ReturnValues"].as_str().unwrap_or("NONE");
    let attributes = match wanted {
        "NONE" => None,
        _ if !known.contains(&wanted) => return Err(Failure::unsupported(format!("ReturnValues {wanted}"))),
        "ALL_OLD" => before,
        _ => after,
    };
    Ok(attributes.map_or_else(|| json!({}), |attributes| json!({ "Attributes": attributes })))
}

pub(super) fn get_item(table: &mut Table, request: &Value, chance: &mut SmallRng) -> Answer {
    let key = table.key_in(request, "Key")?;
    let is_consistent = request["ConsistentRead"].as_bool().unwrap_or(false);
    let item = table.get(&key, is_consistent, chance).cloned();
    let bytes = item.as_ref().map_or(0, value::item_bytes);
    table.admit(&key.partition, Units::Read, read_units(bytes, is_consistent), chance)?;
    Ok(item.map_or_else(|| json!({}), |item| json!({ "Item": item })))
}

pub(super) fn query(table: &mut Table, request: &Value, chance: &mut SmallRng) -> Answer {
    let mut placeholders = Placeholders::of(request)?;
    let condition = placeholders.condition(request, "KeyConditionExpression")?;
    let filter = placeholders.condition(request, "FilterExpression")?;
    let names = projection(&mut placeholders, request)?;
    placeholders.must_be_used()?;
    let condition =
        condition.ok_or_else(|| Failure::validation("KeyConditionExpression must be specified"))?;
    let (partition, on_sort) = key_condition(table, condition)?;
    let is_consistent = request["ConsistentRead"].as_bool().unwrap_or(false);
    let is_forward = request["ScanIndexForward"].as_bool().unwrap_or(true);
    let from = match request["ExclusiveStartKey"].is_null() {
        true => None,
        false => Some(table.key_in(request, "ExclusiveStartKey")?),
    };
    if from.as_ref().is_some_and(|key| key.partition != partition) {
        return Err(Failure::validation(
            "The provided starting key is outside query boundaries based on provided conditions",
        ));
    }
    let limit = limit(request)?;
    let may_stop_at_end = chance.random_bool(0.5);
    let from = from.as_ref().map(|key| key.sort.as_str());
    let (mut bytes, mut scanned, mut found, mut last) = (0, 0, Vec::new(), None);
    let in_range = table
        .range(&partition, from, is_forward, is_consistent, chance)
        .filter(|item| on_sort.iter().all(|one| one.holds(item)));
    let mut is_cut = false;
    for item in in_range {
        let size = value::item_bytes(item);
        if scanned == limit || (scanned > 0 && bytes + size > MAX_PAGE_BYTES) {
            is_cut = true;
            break;
        }
        (bytes, scanned) = (bytes + size, scanned + 1);
        last = Some(table.key_of(item)?);
        if filter.as_ref().is_none_or(|filter| filter.holds(item)) {
            found.push(Value::Object(projected(item, names.as_ref())));
        }
    }
    // A position does not mean that there is more: at a limit that is the end, the documents allow both.
    is_cut = is_cut || (scanned == limit && may_stop_at_end);
    table.admit(&partition, Units::Read, read_units(bytes, is_consistent), chance)?;
    let mut answer = json!({ "Count": found.len(), "ScannedCount": scanned });
    match request["Select"].as_str() {
        Some("COUNT") => {}
        _ => answer["Items"] = Value::Array(found),
    }
    if let Some(last) = last.filter(|_| is_cut) {
        answer["LastEvaluatedKey"] = Value::Object(table.key_attributes(&last));
    }
    Ok(answer)
}

/// A scan of a small table, for tests: one page.
pub(super) fn scan(table: &Table) -> Answer {
    let items: Vec<&Item> = table.all().collect();
    if items.iter().map(|item| value::item_bytes(item)).sum::<usize>() > MAX_PAGE_BYTES {
        return Err(Failure::unsupported("scans of more than a page"));
    }
    Ok(json!({ "Count": items.len(), "ScannedCount": items.len(), "Items": items }))
}

fn limit(request: &Value) -> Result<usize, Failure> {
    match &request["Limit"] {
        Value::Null => Ok(usize::MAX),
        limit => match limit.as_u64() {
            Some(limit) if limit > 0 => Ok(limit as usize),
            _ => Err(Failure::validation("Limit must be greater than or equal to 1")),
        },
    }
}

/// The attributes that are wanted; `None` for all.
fn projection(placeholders: &mut Placeholders, request: &Value) -> Result<Option<Vec<String>>, Failure> {
    let Some(text) = request["ProjectionExpression"].as_str() else { return Ok(None) };
    text.split(',').map(|name| placeholders.name(name.trim())).collect::<Result<_, _>>().map(Some)
}

fn projected(item: &Item, names: Option<&Vec<String>>) -> Item {
    let wanted = |name: &String| names.is_none_or(|names| names.contains(name));
    item.iter().filter(|(name, _)| wanted(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

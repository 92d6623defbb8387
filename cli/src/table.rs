//! Answers for people. A field's name ends in its unit, so that its name says how it is shown; fields that this program
//! does not know are shown, too.

use crate::moment;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value};

/// Microseconds since the Unix epoch in the year 2001, and more than any count or duration.
const EARLIEST_MICROS: u64 = 1_000_000_000_000_000;
/// The same in milliseconds.
const EARLIEST_MS: u64 = 1_000_000_000_000;

/// Fields of an object, one a line: those of `first` in this order, then all others. Lists of objects follow as tables.
pub(crate) fn fields(answer: &Value, first: &[&str]) -> String {
    let Value::Object(object) = answer else { return cell("", answer) };
    let (mut lines, mut below) = (Vec::new(), String::new());
    for name in ordered(object, first) {
        collect(name, name, &object[name], &mut lines, &mut below);
    }
    let mut table = new_table();
    for (name, value) in lines {
        table.add_row([name, value]);
    }
    join(&trimmed(&table), &below)
}

/// A table of objects, with the columns of `first` in this order and then all others.
pub(crate) fn rows(list: &[Value], first: &[&str]) -> String {
    let mut all = Map::new();
    for row in list.iter().filter_map(Value::as_object) {
        all.extend(row.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    let columns = ordered(&all, first);
    let mut table = new_table();
    table.set_header(columns.iter().copied());
    for row in list {
        table.add_row(columns.iter().map(|name| cell(name, &row[*name])));
    }
    for (at, name) in columns.iter().enumerate() {
        let is_number = list.iter().all(|row| row[*name].is_number() || row[*name].is_null());
        if let Some(column) = table.column_mut(at).filter(|_| is_number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    trimmed(&table)
}

/// Rows of a table that this program makes itself.
pub(crate) fn grid(header: &[&str], lines: Vec<Vec<String>>) -> String {
    let mut table = new_table();
    table.set_header(header.iter().copied());
    table.add_rows(lines);
    trimmed(&table)
}

/// Two texts with an empty line between them, if neither is empty.
pub(crate) fn join(above: &str, below: &str) -> String {
    let space = if above.is_empty() || below.is_empty() { "" } else { "\n\n" };
    format!("{above}{space}{below}")
}

/// One value. `name` tells its unit.
pub(crate) fn cell(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => printable(text),
        Value::Number(number) => match number.as_u64() {
            Some(micros) if micros >= EARLIEST_MICROS && is_moment(name) => moment::text(micros),
            Some(ms) if ms >= EARLIEST_MS && name.ends_with("_ms") => moment::text(ms.saturating_mul(1_000)),
            Some(ms) if ms >= 1_000 && name.ends_with("_ms") => format!("{} s", ms as f64 / 1_000.0),
            Some(ms) if name.ends_with("_ms") => format!("{ms} ms"),
            _ if name.ends_with("seconds") => format!("{number} s"),
            _ => number.to_string(),
        },
        Value::Array(list) => {
            let all: Vec<String> = list.iter().map(|one| cell(name, one)).collect();
            if all.is_empty() { "-".into() } else { all.join(", ") }
        }
        Value::Object(object) => {
            let all: Vec<String> =
                object.iter().map(|(name, value)| format!("{name} {}", cell(name, value))).collect();
            if all.is_empty() { "-".into() } else { all.join(", ") }
        }
    }
}

fn is_moment(name: &str) -> bool {
    name.ends_with("_at") || name.ends_with("_time") || name == "decided_by"
}

/// A value comes from buyers and shops: it must not command the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() && one != '\n' { '\u{fffd}' } else { one }).collect()
}

fn ordered<'a>(object: &'a Map<String, Value>, first: &[&'a str]) -> Vec<&'a str> {
    let known = first.iter().copied().filter(|name| object.contains_key(*name));
    known.chain(object.keys().map(String::as_str).filter(|name| !first.contains(name))).collect()
}

fn collect(name: &str, path: &str, value: &Value, lines: &mut Vec<(String, String)>, below: &mut String) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                collect(name, &format!("{path}.{name}"), value, lines, below);
            }
        }
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            *below = join(below, &format!("{path}:\n{}", rows(list, &[])));
        }
        other => lines.push((path.to_owned(), cell(name, other))),
    }
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Without the margins at both ends of the lines.
fn trimmed(table: &Table) -> String {
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

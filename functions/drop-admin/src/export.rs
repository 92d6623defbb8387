//! The buyers who have bought a unit of an item, for shipping, or whose unit was voided. The ledger records who exported
//! them.

use crate::audit::AuditFormat;
use crate::operator::OperatorName;
use crate::{AdminError, App};
use ledger::{Sale, SalePosition, SaleState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::stamp::Stamp;

/// The most units in one answer. The longest ones stay below the 6 MB that Lambda allows.
const PAGE_SIZE: u32 = 5_000;

/// What an export lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExportOf {
    /// Sold units, for shipping.
    #[default]
    Sold,
    /// Units that were taken back and were not given to the same buyer again: not to be shipped.
    Voided,
}

/// A unit.
#[derive(Serialize)]
struct ExportLine<'a> {
    user_token: &'a str,
    /// Absent if the item has no hold, so that no payment was needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_reference: Option<&'a str>,
    placed_at: Stamp,
    reserved_at: Stamp,
}

/// One page of an item's sold or voided units, after `after`.
pub(crate) async fn export(
    app: &App,
    item_id: &ItemId,
    (by, of): (&OperatorName, ExportOf),
    format: AuditFormat,
    after: Option<&str>,
) -> Result<Value, AdminError> {
    let start = after.map(|text| SalePosition::parse(text).ok_or(AdminError::NoSuchCursor)).transpose()?;
    app.ledger.item(item_id).await?;
    let state = match of {
        ExportOf::Sold => SaleState::Sold,
        ExportOf::Voided => SaleState::Voided,
    };
    let sales = app.ledger.export(item_id, state, by.as_str(), start.as_ref(), PAGE_SIZE).await?;
    let lines: Vec<ExportLine<'_>> = sales.iter().map(line).collect();
    let last = sales.last().filter(|_| sales.len() == PAGE_SIZE as usize);
    let mut answer = json!({
        "item_id": item_id,
        "units": lines.len(),
        "next": last.map(|sale| SalePosition::from(sale).to_text()),
    });
    match format {
        AuditFormat::Json => answer[state.name()] = serde_json::to_value(&lines)?,
        AuditFormat::Csv => answer["csv"] = csv(&lines, after.is_none()).into(),
    }
    Ok(answer)
}

fn line(sale: &Sale) -> ExportLine<'_> {
    ExportLine {
        user_token: sale.user_token.as_str(),
        payment_reference: sale.payment_reference.as_deref(),
        placed_at: sale.placed_at,
        reserved_at: sale.reserved_at,
    }
}

/// A spreadsheet reads a value with one of these as its first character as a formula, and a buyer or a shop chooses the value.
const BEGINS_A_FORMULA: [char; 4] = ['=', '+', '-', '@'];

/// A quoted value of RFC 4180: names and references may contain commas and quotes. An apostrophe before a value that could
/// be a formula makes it text; one before an apostrophe keeps the values apart.
fn quoted(value: &str) -> String {
    let apostrophe = if value.starts_with(BEGINS_A_FORMULA) || value.starts_with('\'') { "'" } else { "" };
    format!("\"{apostrophe}{}\"", value.replace('"', "\"\""))
}

fn csv(lines: &[ExportLine<'_>], with_names: bool) -> String {
    let mut text = String::new();
    if with_names {
        text.push_str("user_token,payment_reference,placed_at,reserved_at\r\n");
    }
    for ExportLine { user_token, payment_reference, placed_at, reserved_at } in lines {
        let payment = payment_reference.unwrap_or_default();
        let (buyer, payment) = (quoted(user_token), quoted(payment));
        text.push_str(&format!("{buyer},{payment},{placed_at},{reserved_at}\r\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buyer_s_name_cannot_add_a_column_or_a_line() {
        let at = Stamp::EPOCH;
        let line =
            ExportLine { user_token: "a,\"b", payment_reference: None, placed_at: at, reserved_at: at };
        assert_eq!(
            csv(&[line], true),
            "user_token,payment_reference,placed_at,reserved_at\r\n\"a,\"\"b\",\"\",0,0\r\n"
        );
    }

    #[test]
    fn no_value_is_a_formula_and_no_two_values_are_the_same() {
        let values = ["=HYPERLINK(1)", "@a", "+1", "-1", "'=HYPERLINK(1)", "'a", "HYPERLINK(1)", "a=1"];
        let written: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        assert_eq!(written[0], "\"'=HYPERLINK(1)\"");
        assert_eq!(written[7], "\"a=1\"");
        for (number, value) in written.iter().enumerate() {
            assert!(!value[1..].starts_with(BEGINS_A_FORMULA), "{value}");
            assert!(!written[..number].contains(value), "{value}");
        }
    }

    /// Every character of the longest names is escaped.
    #[test]
    fn the_longest_page_is_below_lambda_s_limit() {
        let name = "\\".repeat(255);
        let at = Stamp::MAX;
        let line =
            ExportLine { user_token: &name, payment_reference: Some(&name), placed_at: at, reserved_at: at };
        let size = serde_json::to_string(&line).unwrap().len() + 1;
        assert!(size * (PAGE_SIZE as usize) < 6_000_000, "{size}");
    }
}

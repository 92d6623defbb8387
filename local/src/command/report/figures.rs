//! Numbers formatted for readers, for the terminal and the page.

use std::collections::BTreeMap;

/// Shown for a figure that was not measured.
const MISSING: &str = "n/a";

/// A count with a comma between thousands: `20,000`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A share of 0 to 1 in percent, to a tenth. Less than all never reads `100.0%`.
pub(super) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return MISSING.to_owned();
    }
    let percent = if share < 1.0 { (share * 100.0).min(99.9) } else { share * 100.0 };
    format!("{percent:.1}%")
}

/// Milliseconds without the unit: a tenth below 10, whole from there on.
pub(super) fn millis(ms: f64) -> String {
    if !ms.is_finite() {
        MISSING.to_owned()
    } else if ms < 9.95 {
        format!("{ms:.1}")
    } else {
        count(ms.round() as u64)
    }
}

/// A rate, whole.
pub(super) fn rate(per_second: f64) -> String {
    if per_second.is_finite() { count(per_second.round() as u64) } else { MISSING.to_owned() }
}

/// Refusals as `sold-out 2,842` each; one `none` if there are none.
pub(super) fn refusals(refused: &BTreeMap<String, u64>) -> Vec<String> {
    let mut reasons: Vec<String> = refused
        .iter()
        .filter(|(_, orders)| **orders > 0)
        .map(|(reason, orders)| format!("{reason} {}", count(*orders)))
        .collect();
    if reasons.is_empty() {
        reasons.push("none".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, expected) in cases {
            assert_eq!(count(number), expected);
        }
    }

    #[test]
    fn a_share_below_one_is_never_shown_as_all() {
        let cases = [(0.0, "0.0%"), (0.998, "99.8%"), (0.999_9, "99.9%"), (1.0, "100.0%")];
        for (share, expected) in cases {
            assert_eq!(percent(share), expected);
        }
        assert_eq!(percent(f64::NAN), "n/a");
    }

    #[test]
    fn times_keep_two_digits_that_matter() {
        for (ms, expected) in [(1.04, "1.0"), (9.96, "10"), (148.4, "148"), (2_000.0, "2,000")] {
            assert_eq!(millis(ms), expected);
        }
    }

    #[test]
    fn a_reason_without_orders_is_left_out() {
        let refused = BTreeMap::from([("sold-out".to_owned(), 1_200), ("too-late".to_owned(), 0)]);
        assert_eq!(refusals(&refused), ["sold-out 1,200"]);
        assert_eq!(refusals(&BTreeMap::new()), ["none"]);
    }
}

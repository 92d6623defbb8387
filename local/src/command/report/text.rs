//! The report for a terminal: plain ASCII, no colour, at most 100 columns.

use super::{DropReport, RegionFigures, figures};

const COLUMNS: usize = 100;
const REGION_COLUMNS: usize = 22;

pub(super) fn render(report: &DropReport) -> String {
    let mut lines = heading(report);
    lines.push(String::new());
    lines.extend(region_table(report));
    lines.push(String::new());
    lines.extend(refusals(report));
    lines.push(String::new());
    lines.extend(verdict(report));
    lines.push(String::new());
    lines.extend(wrap("Round trips: ", &report.transit_source));
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn heading(report: &DropReport) -> Vec<String> {
    let mut lines = wrap("", &format!("fairdrop report: {}", report.item_id));
    lines.extend(wrap(
        "",
        &format!(
            "{} orders from {} regions for {} units, {} sold.",
            figures::count(report.orders),
            report.regions.len(),
            figures::count(report.stock),
            figures::count(report.sold),
        ),
    ));
    lines.extend(wrap(
        "",
        &format!(
            "Stock {}, {} orders/s, settle window {} ms, seed {}.",
            report.sell_out(),
            figures::rate(report.orders_per_second),
            figures::count(report.settle_window_ms),
            report.seed,
        ),
    ));
    lines.extend(wrap("", &report.holds_in_words()));
    lines.extend(wrap("", &report.path_in_words()));
    lines
}

fn region_table(report: &DropReport) -> Vec<String> {
    let rule = "-".repeat(COLUMNS);
    let header =
        ["region", "RTT ms", "orders", "demand", "LIST", "ZSET", "fairdrop", "refused", "p50", "p99"];
    let mut lines =
        vec![format!("{:>76}{:>24}", "share of units won by", "answer ms"), row(header), rule.clone()];
    lines.extend(report.regions.iter().map(region_row));
    lines.push(rule);
    lines
}

fn region_row(region: &RegionFigures) -> String {
    let won = region.win_share;
    row([
        &region_label(region),
        &figures::millis(region.round_trip_ms),
        &figures::count(region.orders),
        &figures::percent(region.demand_share),
        &figures::percent(won.list),
        &figures::percent(won.zset),
        &figures::percent(won.fairdrop),
        &figures::count(region.refused.values().sum()),
        &figures::millis(region.answer_ms.p50),
        &figures::millis(region.answer_ms.p99),
    ])
}

/// The widths add up to `COLUMNS`.
fn row(cells: [&str; 10]) -> String {
    let [region, trip, orders, demand, list, zset, fairdrop, refused, p50, p99] = cells;
    format!(
        "{region:<REGION_COLUMNS$}{trip:>8}{orders:>10}{demand:>8}{list:>9}{zset:>9}\
         {fairdrop:>10}{refused:>10}{p50:>7}{p99:>7}"
    )
}

fn region_label(region: &RegionFigures) -> String {
    let mark = if region.is_main { " (main)" } else { "" };
    let name: String = printable(&region.name).chars().take(REGION_COLUMNS - 1 - mark.len()).collect();
    format!("{name}{mark}")
}

fn refusals(report: &DropReport) -> Vec<String> {
    let line =
        |label: &str, reasons: Vec<String>| wrap(&format!("  {label:<REGION_COLUMNS$}"), &reasons.join(", "));
    let mut lines = vec!["Refused orders, by reason".to_owned()];
    for region in &report.regions {
        lines.extend(line(&region_label(region), figures::refusals(&region.refused)));
    }
    lines.extend(line("all regions", figures::refusals(&report.refused)));
    lines
}

fn verdict(report: &DropReport) -> Vec<String> {
    let right_winners: Vec<String> = report
        .right_winners
        .named()
        .iter()
        .map(|(strategy, share)| format!("{strategy} {}", figures::percent(**share)))
        .collect();
    let checks: Vec<String> = report
        .checks()
        .iter()
        .map(|check| format!("{} {}", check.name, figures::count(check.broken)))
        .collect();
    let result = if report.is_sound() { "OK" } else { "NOT OK" };

    let mut lines = wrap("Units to right buyers: ", &right_winners.join(", "));
    lines.extend(wrap("  ", &report.right_in_words()));
    lines.extend(wrap("Verdict: ", &format!("{result} ({})", checks.join(", "))));
    lines.extend(wrap("  ", &report.verdict()));
    lines
}

/// Breaks `text` into lines of at most `COLUMNS`, the first behind `lead` and the
/// rest indented to it. A word too long for a line is cut into pieces.
fn wrap(lead: &str, text: &str) -> Vec<String> {
    let room = COLUMNS - lead.len();
    let mut lines = vec![String::new()];
    for word in printable(text).split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(room) {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(line) if line.is_empty() => *line = piece,
                Some(line) if line.len() + 1 + piece.len() <= room => {
                    line.push(' ');
                    line.push_str(&piece);
                }
                _ => lines.push(piece),
            }
        }
    }
    let indent = " ".repeat(lead.len());
    let leads = std::iter::once(lead).chain(std::iter::repeat(indent.as_str()));
    leads.zip(lines).map(|(lead, line)| format!("{lead}{line}").trim_end().to_owned()).collect()
}

/// Text safe to print: a control character would move the cursor, and one
/// outside ASCII may be two columns wide.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    fn assert_fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
    }

    #[test]
    fn fits_a_terminal_and_names_every_region() {
        let report = sample();
        let text = report.to_text();
        assert_fits(&text);
        for region in &report.regions {
            assert!(text.contains(&region.name), "{text}");
        }
        assert!(text.contains("LIST 49.0%, ZSET 50.0%, fairdrop 99.8%"), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let verdict = "Verdict: OK (oversold 0, lost 0, duplicates 0, inversions 0, untrue answers 0, unfounded 0, unreturned 0)";
        assert!(words.contains(verdict), "{text}");
        assert!(
            words.contains(
                "placed 412 ms (p50) and 1,040 ms (p99) after the stamp; 15 orders refused as too late. order-intake: 200 \
                 processes"
            ) && words.contains("CPU: 0.57 ms an order; in seconds: order-intake 9.5, redis-server 2.0."),
            "{text}"
        );
        assert!(
            words.contains("51 reservations released, 23 late payments refused, 44 units sold to the next"),
            "{text}"
        );
    }

    #[test]
    fn a_tie_is_explained() {
        let mut report = sample();
        let words = |report: &DropReport| report.to_text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words(&report).contains("0.2% more went to buyers of the same millisecond"),
            "{}",
            report.to_text()
        );
        report.tied = 0.0;
        assert!(!words(&report).contains("millisecond"));
    }

    #[test]
    fn long_and_hostile_names_neither_widen_nor_control_the_terminal() {
        let mut report = sample();
        report.item_id = "x".repeat(300) + "\x1b[2J";
        report.regions[0].name = "a-region-with-a-very-long-name\x07".to_owned();
        report.regions[1].refused = (0..30).map(|n| (format!("reason-{n}"), n)).collect();
        let text = report.to_text();
        assert_fits(&text);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn a_fault_is_explained_in_words() {
        let mut report = sample();
        report.oversold = 3;
        report.seconds_to_sell_out = None;
        let text = report.to_text();
        assert!(text.contains("Verdict: NOT OK (oversold 3"), "{text}");
        assert!(text.contains("units sold beyond the stock: 3"), "{text}");
        assert!(text.contains("not sold out"), "{text}");
    }
}

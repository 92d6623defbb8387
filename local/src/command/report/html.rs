//! The report as one HTML page: the template is `page.html`; styles are those of the other pages and `style.css`.

use super::escape::escape;
use super::{DropReport, PromiseCheck, RegionFigures, figures, plot};

pub(super) fn render(report: &DropReport) -> String {
    let right = report.right_winners;
    format!(
        include_str!("page.html"),
        style = concat!(include_str!("../../../../pages/look.css"), include_str!("style.css")),
        item_id = escape(&report.item_id),
        orders = figures::count(report.orders),
        regions = report.regions.len(),
        stock = figures::count(report.stock),
        sold = figures::count(report.sold),
        sell_out = report.sell_out(),
        rate = figures::rate(report.orders_per_second),
        settle_window = figures::count(report.settle_window_ms),
        seed = report.seed,
        holds = escape(&format!("{} {}", report.holds_in_words(), report.path_in_words())),
        right_list = figures::percent(right.list),
        right_zset = figures::percent(right.zset),
        right_fairdrop = figures::percent(right.fairdrop),
        right_buyer = escape(&report.right_in_words()),
        checks = report.checks().iter().map(check_tile).collect::<String>(),
        verdict_class = ok_class(report.is_sound()),
        verdict_word = ok_word(report.is_sound()),
        verdict = report.verdict(),
        wins_plot = plot::wins_by_region(report),
        right_plot = plot::right_buyers(report),
        rows = report.regions.iter().map(region_row).collect::<String>(),
        queued = figures::count(report.regions.iter().map(|region| region.queued).sum()),
        won = won_in_all(report),
        refused = lines(figures::refusals(&report.refused)),
        transit_source = escape(&report.transit_source),
    )
}

fn ok_class(ok: bool) -> &'static str {
    if ok { "ok" } else { "bad" }
}

fn ok_word(ok: bool) -> &'static str {
    if ok { "OK" } else { "NOT OK" }
}

fn check_tile(check: &PromiseCheck) -> String {
    let ok = check.broken == 0;
    format!(
        r#"<div class="tile"><dt>{name} <span class="mark {class}">{word}</span></dt>
<dd><b>{broken}</b><span>{meaning}</span></dd></div>
"#,
        name = check.name,
        class = ok_class(ok),
        word = ok_word(ok),
        broken = figures::count(check.broken),
        meaning = check.meaning,
    )
}

fn region_row(region: &RegionFigures) -> String {
    let won: String = region
        .wins
        .named()
        .iter()
        .zip(region.win_share.named())
        .map(|((_, units), (_, share))| {
            let (units, share) = (figures::count(**units), figures::percent(*share));
            format!("<td>{units}<small>{share}</small></td>")
        })
        .collect();
    format!(
        r#"<tr><th scope="row">{name}{mark}</th><td>{trip}</td><td>{orders}</td><td>{demand}</td>
{won}<td>{queued}</td><td>{refused}</td><td>{p50}</td><td>{p99}</td><td>{max}</td></tr>
"#,
        name = escape(&region.name),
        mark = if region.is_main { "<small>main region</small>" } else { "" },
        trip = figures::millis(region.round_trip_ms),
        orders = figures::count(region.orders),
        demand = figures::percent(region.demand_share),
        queued = figures::count(region.queued),
        refused = lines(figures::refusals(&region.refused)),
        p50 = figures::millis(region.answer_ms.p50),
        p99 = figures::millis(region.answer_ms.p99),
        max = figures::millis(region.answer_ms.max),
    )
}

/// The cells of the last row: units won in all regions, for each strategy.
fn won_in_all(report: &DropReport) -> String {
    (0..3)
        .map(|strategy| {
            let units = report.regions.iter().map(|region| *region.wins.named()[strategy].1).sum();
            format!("<td>{}</td>", figures::count(units))
        })
        .collect()
}

fn lines(texts: Vec<String>) -> String {
    texts.iter().map(|text| escape(text)).collect::<Vec<_>>().join("<br>")
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;

    #[test]
    fn names_from_outside_are_escaped() {
        let hostile = r#"<script>alert("1")</script>&'{rows}"#;
        let mut report = sample();
        report.item_id = hostile.to_owned();
        report.transit_source = hostile.to_owned();
        report.regions[0].name = hostile.to_owned();
        report.refused.insert(hostile.to_owned(), 1);
        report.regions[0].refused.insert(hostile.to_owned(), 1);
        let html = report.to_html();
        assert!(!html.contains("<script"), "{html}");
        let escaped = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;{rows}";
        assert!(html.matches(escaped).count() >= 6);
    }

    #[test]
    fn the_page_loads_nothing() {
        let html = sample().to_html();
        for load in ["http://", "https://", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!html.contains(load), "{load}");
        }
    }

    #[test]
    fn faults_are_explained_in_words() {
        let mut report = sample();
        assert!(!report.to_html().contains("NOT OK"));
        report.inversions = 4;
        let html = report.to_html();
        // The check that failed, and the verdict.
        assert_eq!(html.matches("NOT OK").count(), 2);
        assert!(html.contains("orders served before an earlier one: 4"));
    }

    #[test]
    fn tables_and_plots_are_accessible() {
        let html = sample().to_html();
        assert_eq!(html.matches(r#"<th scope="row">"#).count(), 6);
        assert_eq!(html.matches(r#"role="img""#).count(), 2);
    }
}

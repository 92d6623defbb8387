//! The two plots, as SVG that flows with the page.
//!
//! Bars are horizontal. Widths are percentages of the page; heights are in pixels. So a plot fits a phone and a wide
//! screen with letters of the same size, and needs no script.

use super::escape::escape;
use super::{ByStrategy, DropReport, figures};

/// Left edge of the bars, in percent of the width.
const LEFT: f64 = 20.0;
/// Length of a bar that reaches the end of the axis, in percent of the width.
const SPAN: f64 = 63.0;
const BAR_PX: usize = 15;
const ROW_PX: usize = 21;
const HEAD_PX: usize = 24;
const GROUP_PX: usize = HEAD_PX + 3 * ROW_PX + 15;
const AXIS_PX: usize = 22;

/// The ticks of an axis, as shares.
struct Axis {
    end: f64,
    step: f64,
}

/// Wins by region for the three strategies, with the region's demand as a line.
pub(super) fn wins_by_region(report: &DropReport) -> String {
    let axis = axis_for(report);
    let height = report.regions.len() * GROUP_PX + AXIS_PX;
    let groups: String = report
        .regions
        .iter()
        .enumerate()
        .map(|(index, region)| {
            let top = index * GROUP_PX;
            let name = escape(&region.name);
            let place = if region.is_main {
                "main region".to_owned()
            } else {
                format!("{} ms round trip", figures::millis(region.round_trip_ms))
            };
            format!(
                r#"<text class="region" x="0" y="{y}">{name}
<tspan class="note">{place}</tspan></text>
<text class="note" x="100%" y="{y}" text-anchor="end">demand {demand}</text>
{grid}{bars}{demand_line}{labels}"#,
                y = top + 15,
                demand = figures::percent(region.demand_share),
                grid = grid(&axis, top + HEAD_PX - 3),
                demand_line = mark(&axis, region.demand_share, top + HEAD_PX - 3),
                bars = bars(&axis, &region.win_share, top + HEAD_PX, &name),
                labels = labels(&axis, &region.win_share, top + HEAD_PX),
            )
        })
        .collect();
    let desc = format!(
        "Three bars for each of {} regions show its share of the units won under each strategy; \
         a dashed line shows its share of the orders. The table below has every figure.",
        report.regions.len()
    );
    let ticks = ticks(&axis, height - 6);
    svg("wins", "Units won against demand, by region", &desc, height, &(groups + &ticks))
}

/// The share of the units that went to the right buyers, by strategy.
pub(super) fn right_buyers(report: &DropReport) -> String {
    let axis = Axis { end: 1.0, step: 0.25 };
    let height = 3 * ROW_PX + 8 + AXIS_PX;
    let figures: Vec<String> = report
        .right_winners
        .named()
        .iter()
        .map(|(strategy, share)| format!("{strategy} {}", figures::percent(**share)))
        .collect();
    let desc = format!("Units that went to the right buyers: {}.", figures.join(", "));
    let body = grid(&axis, 0)
        + &bars(&axis, &report.right_winners, 3, "right buyers")
        + &labels(&axis, &report.right_winners, 3)
        + &ticks(&axis, height - 6);
    svg("right", "Share of the units that went to the right buyers", &desc, height, &body)
}

fn svg(id: &str, title: &str, desc: &str, height: usize, body: &str) -> String {
    format!(
        r#"<svg class="plot" role="img" width="100%" height="{height}"
aria-labelledby="{id}-title {id}-desc">
<title id="{id}-title">{title}</title>
<desc id="{id}-desc">{desc}</desc>
{body}</svg>"#
    )
}

/// One bar for each strategy. `of` is escaped already.
fn bars(axis: &Axis, shares: &ByStrategy<f64>, top: usize, of: &str) -> String {
    let bar = |(row, (strategy, share)): (usize, (&str, &f64))| {
        format!(
            r#"<rect class="{class}" x="{LEFT}%" y="{y}" width="{width:.2}%" height="{BAR_PX}">
<title>{strategy}, {of}: {figure}</title></rect>
"#,
            class = strategy.to_ascii_lowercase(),
            y = top + row * ROW_PX,
            width = axis.position(*share) - LEFT,
            figure = figures::percent(*share),
        )
    };
    shares.named().into_iter().enumerate().map(bar).collect()
}

/// The strategy's name before each bar and its figure after it. They are drawn
/// last, so that no grid line crosses a figure.
fn labels(axis: &Axis, shares: &ByStrategy<f64>, top: usize) -> String {
    let label = |(row, (strategy, share)): (usize, (&str, &f64))| {
        format!(
            r#"<g class="{class}">
<text x="{LEFT}%" dx="-8" y="{y}" text-anchor="end">{strategy}</text>
<text class="figure" x="{end:.2}%" dx="6" y="{y}">{figure}</text></g>
"#,
            class = strategy.to_ascii_lowercase(),
            y = top + row * ROW_PX + 12,
            end = axis.position(*share),
            figure = figures::percent(*share),
        )
    };
    shares.named().into_iter().enumerate().map(label).collect()
}

fn grid(axis: &Axis, top: usize) -> String {
    let line = |share: f64| {
        let (x, bottom) = (axis.position(share), top + 3 * ROW_PX);
        format!(r#"<line class="grid" x1="{x:.2}%" x2="{x:.2}%" y1="{top}" y2="{bottom}"/>"#)
    };
    axis.shares().map(line).collect()
}

/// A dashed line over the bars, on a wider line in the background colour so that it is visible on dark bars.
fn mark(axis: &Axis, share: f64, top: usize) -> String {
    let (x, bottom) = (axis.position(share), top + 3 * ROW_PX);
    ["paper", "demand"]
        .map(|class| format!(r#"<line class="{class}" x1="{x:.2}%" x2="{x:.2}%" y1="{top}" y2="{bottom}"/>"#))
        .concat()
}

fn ticks(axis: &Axis, y: usize) -> String {
    let tick = |share: f64| {
        let x = axis.position(share);
        format!(r#"<text class="note" x="{x:.2}%" y="{y}" text-anchor="middle">{:.0}%</text>"#, share * 100.0)
    };
    axis.shares().map(tick).collect()
}

/// An axis just long enough for every share, in round steps.
fn axis_for(report: &DropReport) -> Axis {
    let longest = report
        .regions
        .iter()
        .flat_map(|region| {
            let won = region.win_share;
            [region.demand_share, won.list, won.zset, won.fairdrop]
        })
        .fold(0.05, f64::max)
        .min(1.0);
    let step = match longest {
        x if x <= 0.2 => 0.05,
        x if x <= 0.5 => 0.1,
        _ => 0.2,
    };
    Axis { end: (longest / step).ceil() * step, step }
}

impl Axis {
    /// Where a share lies, in percent of the plot's width.
    fn position(&self, share: f64) -> f64 {
        let share = if share.is_finite() { share.clamp(0.0, self.end) } else { 0.0 };
        LEFT + SPAN * share / self.end
    }

    fn shares(&self) -> impl Iterator<Item = f64> {
        let steps = (self.end / self.step).round() as u32;
        (0..=steps).map(|index| f64::from(index) * self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_axis_is_just_long_enough() {
        let mut report = sample();
        for (longest, end) in [(0.103, 0.15), (0.41, 0.5), (0.604, 0.8), (1.0, 1.0)] {
            for region in &mut report.regions {
                region.demand_share = 0.1;
                region.win_share = ByStrategy { list: longest, zset: 0.1, fairdrop: 0.1 };
            }
            assert!((axis_for(&report).end - end).abs() < 1e-9, "{longest}");
        }
    }

    #[test]
    fn a_share_that_is_not_a_number_has_no_bar() {
        let axis = Axis { end: 1.0, step: 0.25 };
        for (share, position) in [(f64::NAN, LEFT), (-1.0, LEFT), (7.0, LEFT + SPAN)] {
            assert!((axis.position(share) - position).abs() < 1e-9, "{share}");
        }
    }

    #[test]
    fn a_plot_has_a_title_and_a_description() {
        let plot = right_buyers(&sample());
        assert!(plot.contains(r#"role="img""#) && plot.contains("<title id="), "{plot}");
        assert!(plot.contains("LIST 49.0%, ZSET 50.0%, fairdrop 99.8%"), "{plot}");
        assert_eq!(wins_by_region(&sample()).matches("<rect").count(), 15);
    }
}

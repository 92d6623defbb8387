//! The results of one drop, and their three renderings.
//!
//! The same arrivals go through three strategies: a Redis LIST, a Redis ZSET popped at once, and fairdrop. `text` is for the
//! terminal, `html` for a browser (its plots in `plot`), and the JSON for programs. `figures` formats numbers.

mod escape;
mod figures;
mod html;
mod plot;
mod text;

use crate::aws::environments::PoolFigures;
use crate::system::intake::Intake;
use serde::Serialize;
use std::collections::BTreeMap;

/// The measurements of one drop.
#[derive(Debug, Clone, Serialize)]
pub struct DropReport {
    pub item_id: String,
    /// Seed of the simulated crowd: the same seed places the same orders.
    pub seed: u64,
    /// How long an order may travel to the main Redis, in milliseconds.
    pub settle_window_ms: u64,
    /// Orders placed, in all regions.
    pub orders: u64,
    /// Units on sale.
    pub stock: u64,
    /// Units sold by fairdrop.
    pub sold: u64,
    /// Units sold beyond the stock; must be 0.
    pub oversold: u64,
    /// Orders that were accepted and are neither queued nor reserved; must be 0.
    pub lost: u64,
    /// Units sold to a buyer who already had one; must be 0.
    pub duplicates: u64,
    /// Orders served before an earlier one; must be 0.
    pub inversions: u64,
    /// Orders that were finally refused and nevertheless queued; must be 0.
    pub untrue: u64,
    /// Buyers who are sold in Redis and not in the ledger, or the reverse; must be 0.
    pub unfounded: u64,
    /// Payments whose money neither bought a unit nor came back, by the card provider's books; must be 0.
    pub unreturned: u64,
    pub holds: Holds,
    pub path: PathFigures,
    /// Share of the units that went to the buyers who ordered first, 0 to 1.
    pub right_winners: ByStrategy<f64>,
    /// Share of fairdrop's units that went to buyers of the same millisecond as the last right buyer, 0 to 1.
    pub tied: f64,
    /// Paying buyers who arrived in that millisecond, right ones included.
    pub in_last_ms: u64,
    /// Orders refused, by the last segment of the problem's type (`sold-out`).
    pub refused: BTreeMap<String, u64>,
    /// Seconds from opening to the last reservation; `None` if stock was left.
    pub seconds_to_sell_out: Option<f64>,
    /// Orders answered per second.
    pub orders_per_second: f64,
    /// Where the round-trip figures come from: one sentence.
    pub transit_source: String,
    pub regions: Vec<RegionFigures>,
}

/// Results of the reservations that waited for payment.
#[derive(Debug, Clone, Copy, Serialize, Default)]
pub struct Holds {
    /// How long a reservation waits, in seconds.
    pub hold_seconds: u64,
    /// The share of buyers who do not pay in time, 0 to 1.
    pub unpaid_share: f64,
    /// Reservations that ended unpaid.
    pub released: u64,
    /// Payments that came after their reservation had ended, and were refused.
    pub paid_too_late: u64,
    /// Units sold to a later buyer, after an earlier reservation had been released.
    pub handed_on: u64,
}

/// The way of the orders to main's queue.
#[derive(Debug, Clone, Serialize, Default)]
pub struct PathFigures {
    pub intake: Intake,
    /// From the stamp of an order until it was in main's queue.
    pub placed_ms: Percentiles,
    /// The processes of order-intake in all regions.
    pub processes: PoolFigures,
    /// New processes of order-intake at once and in 10 s, in each region; 1,000 on AWS. Without it one process in each
    /// region served many orders at a time.
    pub scaling_rate: Option<u32>,
    /// CPU time by program, in seconds, from the opening to the end.
    pub cpu_seconds: BTreeMap<String, f64>,
}

/// The measurements of one region.
#[derive(Debug, Clone, Serialize)]
pub struct RegionFigures {
    /// The region's name, such as `eu-west-1`.
    pub name: String,
    /// Whether this region holds the queue.
    pub is_main: bool,
    /// Round trip to the main region, in milliseconds.
    pub round_trip_ms: f64,
    /// Orders placed in this region.
    pub orders: u64,
    /// This region's share of all orders, 0 to 1.
    pub demand_share: f64,
    /// Orders of this region that reached the queue.
    pub queued: u64,
    /// Orders refused, by the last segment of the problem's type.
    pub refused: BTreeMap<String, u64>,
    /// How long buyers waited for the answer, in milliseconds.
    pub answer_ms: Percentiles,
    /// Units won by this region's buyers.
    pub wins: ByStrategy<u64>,
    /// This region's share of the units won, 0 to 1.
    pub win_share: ByStrategy<f64>,
}

/// One value for each of the three strategies.
#[derive(Debug, Clone, Copy, Serialize, Default)]
pub struct ByStrategy<T> {
    /// A Redis LIST, which serves in order of arrival at main.
    pub list: T,
    /// A Redis ZSET ordered by stamp and popped at once.
    pub zset: T,
    /// fairdrop, which pops an order once its settle window has passed.
    pub fairdrop: T,
}

/// The middle and the tail of a set of times, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Default)]
pub struct Percentiles {
    /// Half of the times are no longer than this.
    pub p50: f64,
    /// 99 of 100 times are no longer than this.
    pub p99: f64,
    /// The longest time.
    pub max: f64,
}

/// One promise of fairdrop, and the number of times that the drop broke it.
struct PromiseCheck {
    name: &'static str,
    broken: u64,
    meaning: &'static str,
}

impl DropReport {
    /// Whether the drop kept every promise.
    pub fn is_sound(&self) -> bool {
        self.checks().iter().all(|check| check.broken == 0)
    }

    /// The report as indented JSON; the field names are those of this struct.
    #[expect(clippy::expect_used, reason = "the invariant is in its text")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has string keys and plain values only")
    }

    /// The report as plain text for a terminal, at most 100 columns wide.
    pub fn to_text(&self) -> String {
        text::render(self)
    }

    /// The report as one HTML page that loads nothing and runs no script.
    pub fn to_html(&self) -> String {
        html::render(self)
    }

    /// A sentence about the reservations that were not paid in time.
    fn holds_in_words(&self) -> String {
        let Holds { hold_seconds, unpaid_share, released, paid_too_late, handed_on } = self.holds;
        if hold_seconds == 0 {
            return "No hold: each reservation was sold at once.".to_owned();
        }
        format!(
            "Hold {hold_seconds} s, {} of the buyers do not pay in time: {} reservations released, {} late payments \
             refused, {} units sold to the next buyer in the queue.",
            figures::percent(unpaid_share),
            figures::count(released),
            figures::count(paid_too_late),
            figures::count(handed_on),
        )
    }

    /// Who is right, and who ties.
    fn right_in_words(&self) -> String {
        if self.tied == 0.0 {
            return RIGHT_BUYER.to_owned();
        }
        format!(
            "{RIGHT_BUYER} Of fairdrop's units, {} more went to buyers of the same millisecond as the last of them, in \
             which {} arrived: API Gateway's time has milliseconds.",
            figures::percent(self.tied),
            figures::count(self.in_last_ms)
        )
    }

    /// Orders that came after the watermark.
    pub fn too_late(&self) -> u64 {
        self.refused.get("too-late").copied().unwrap_or_default()
    }

    /// The CPU time of all programs for one order, in milliseconds.
    pub fn cpu_ms_per_order(&self) -> f64 {
        self.path.cpu_seconds.values().sum::<f64>() * 1_000.0 / self.orders.max(1) as f64
    }

    /// The CPU seconds of each program, the greatest first.
    pub fn programs_in_words(&self) -> String {
        let seconds = self.path.cpu_seconds.iter().filter(|(_, seconds)| **seconds >= 0.05);
        let mut programs: Vec<(&String, &f64)> = seconds.collect();
        programs.sort_by(|one, other| other.1.total_cmp(one.1));
        let programs = programs.into_iter().map(|(name, seconds)| format!("{name} {seconds:.1}"));
        programs.collect::<Vec<_>>().join(", ")
    }

    /// Sentences about the way of the orders to main, and what it cost.
    fn path_in_words(&self) -> String {
        let PathFigures { intake, placed_ms, processes, scaling_rate, .. } = &self.path;
        let way = match intake {
            Intake::Direct => "Each order was placed before it was answered",
            Intake::Log => "Orders went through the order log of their region",
        };
        let served = match scaling_rate {
            None => "one process in each region, for many orders at a time".to_owned(),
            Some(rate) => format!(
                "{} processes for one order at a time (at most {rate} new ones in a region at once and in each 10 s, \
                 1,000 on AWS), for which {} of {} invocations waited",
                figures::count(processes.started),
                figures::count(processes.waited),
                figures::count(processes.invocations),
            ),
        };
        format!(
            "{way}: placed {} ms (p50) and {} ms (p99) after the stamp; {} orders refused as too late. order-intake: \
             {served}. CPU: {:.2} ms an order; in seconds: {}.",
            figures::millis(placed_ms.p50),
            figures::millis(placed_ms.p99),
            figures::count(self.too_late()),
            self.cpu_ms_per_order(),
            self.programs_in_words(),
        )
    }

    fn checks(&self) -> [PromiseCheck; 7] {
        let check = |name, broken, meaning| PromiseCheck { name, broken, meaning };
        [
            check("oversold", self.oversold, "units sold beyond the stock"),
            check("lost", self.lost, "orders that were accepted and then lost"),
            check("duplicates", self.duplicates, "units sold to a buyer who already had one"),
            check("inversions", self.inversions, "orders served before an earlier one"),
            check("untrue answers", self.untrue, "orders that were refused and nevertheless queued"),
            check("unfounded", self.unfounded, "buyers sold in Redis and not in the ledger, or the reverse"),
            check("unreturned", self.unreturned, "payments that neither bought a unit nor came back"),
        ]
    }

    /// One sentence about the checks, for a reader who does not know their names.
    fn verdict(&self) -> String {
        if self.is_sound() {
            return "No unit was sold beyond the stock, no accepted order was lost, no buyer got \
                    two units, and no order was served before an earlier one."
                .to_owned();
        }
        let broken: Vec<String> = self
            .checks()
            .iter()
            .filter(|check| check.broken > 0)
            .map(|check| format!("{}: {}", check.meaning, figures::count(check.broken)))
            .collect();
        format!("The drop broke its promises ({}).", broken.join("; "))
    }

    fn sell_out(&self) -> String {
        match self.seconds_to_sell_out {
            Some(seconds) => format!("sold out in {seconds:.1} s"),
            None => "not sold out".to_owned(),
        }
    }
}

impl<T> ByStrategy<T> {
    /// The values with the names that readers see, in the order of the report.
    fn named(&self) -> [(&'static str, &T); 3] {
        [("LIST", &self.list), ("ZSET", &self.zset), ("fairdrop", &self.fairdrop)]
    }
}

/// The explanation of *right buyer*, for every rendering.
const RIGHT_BUYER: &str = "Right buyers are the buyers who ordered first, by the clock of their own region.";

#[cfg(test)]
mod tests {
    use super::*;

    /// A drop of 500 units to five regions, of which the nearest is main.
    pub(super) fn sample() -> DropReport {
        DropReport {
            item_id: "sneaker-42".to_owned(),
            seed: 7,
            settle_window_ms: 2_000,
            orders: 20_000,
            stock: 500,
            sold: 500,
            oversold: 0,
            lost: 0,
            duplicates: 0,
            inversions: 0,
            untrue: 0,
            unfounded: 0,
            unreturned: 0,
            holds: Holds {
                hold_seconds: 2,
                unpaid_share: 0.1,
                released: 51,
                paid_too_late: 23,
                handed_on: 44,
            },
            path: PathFigures {
                intake: Intake::Log,
                placed_ms: Percentiles { p50: 412.0, p99: 1_040.0, max: 1_100.0 },
                processes: PoolFigures {
                    started: 200,
                    invocations: 20_000,
                    waited: 140,
                    ..PoolFigures::default()
                },
                scaling_rate: Some(40),
                cpu_seconds: BTreeMap::from([("order-intake".into(), 9.5), ("redis-server".into(), 2.0)]),
            },
            right_winners: ByStrategy { list: 0.49, zset: 0.5, fairdrop: 0.998 },
            tied: 0.002,
            in_last_ms: 3,
            refused: BTreeMap::from([("sold-out".into(), 14_210), ("too-late".into(), 15)]),
            seconds_to_sell_out: Some(2.43),
            orders_per_second: 8_312.4,
            transit_source: "Medians of a public table of round trips between AWS regions; half \
                             of each is taken as the one-way delay."
                .to_owned(),
            regions: vec![
                region("us-east-1", 1.0, 4_120, [302, 297, 103]),
                region("eu-west-1", 68.0, 3_980, [104, 107, 100]),
                region("ap-northeast-1", 148.0, 4_010, [26, 28, 99]),
                region("sa-east-1", 114.0, 3_890, [68, 67, 98]),
                region("ap-southeast-2", 198.0, 4_000, [0, 1, 100]),
            ],
        }
    }

    fn region(name: &str, round_trip_ms: f64, orders: u64, wins: [u64; 3]) -> RegionFigures {
        let share = |wins: u64| wins as f64 / 500.0;
        let [list, zset, fairdrop] = wins;
        RegionFigures {
            name: name.to_owned(),
            is_main: name == "us-east-1",
            round_trip_ms,
            orders,
            demand_share: orders as f64 / 20_000.0,
            queued: orders - 2_842,
            refused: BTreeMap::from([("sold-out".into(), 2_842), ("too-late".into(), 3)]),
            answer_ms: Percentiles {
                p50: round_trip_ms + 2.4,
                p99: round_trip_ms * 1.3 + 11.0,
                max: round_trip_ms * 1.6 + 40.0,
            },
            wins: ByStrategy { list, zset, fairdrop },
            win_share: ByStrategy { list: share(list), zset: share(zset), fairdrop: share(fairdrop) },
        }
    }

    #[test]
    fn json_has_the_fields_programs_read() {
        let json: serde_json::Value = serde_json::from_str(&sample().to_json()).unwrap();
        for field in ["stock", "sold", "oversold", "lost", "duplicates", "inversions"] {
            assert!(json[field].is_u64(), "{field}");
        }
        assert_eq!(json["right_winners"]["fairdrop"], 0.998);
        assert_eq!(json["regions"].as_array().unwrap().len(), 5);
    }

    #[test]
    fn each_fault_alone_makes_a_drop_unsound() {
        assert!(sample().is_sound());
        let faults: [fn(&mut DropReport); 6] = [
            |report| report.oversold = 1,
            |report| report.lost = 1,
            |report| report.duplicates = 1,
            |report| report.inversions = 1,
            |report| report.untrue = 1,
            |report| report.unreturned = 1,
        ];
        for (index, fault) in faults.iter().enumerate() {
            let mut report = sample();
            fault(&mut report);
            assert!(!report.is_sound(), "fault {index}");
            assert!(report.verdict().contains(": 1)"), "{}", report.verdict());
        }
    }
}

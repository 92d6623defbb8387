//! Orders and withdrawals through the log: a mapping that delivers batches late, again, also old ones after newer ones, and
//! in any order of the shards, under windows that change and a main whose clock is set. The real scripts, under a clock of the test's own.

use crate::virtual_time::{Answer, START, Scripts, Sent, item, reserved};
use anyhow::Result;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use shared::queue::Keys;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tests::RedisQueue;

const SHARDS: usize = 3;
const BUYERS: u8 = 9;
const STOCK: u32 = 6;
/// Records of a batch.
const BATCH: usize = 5;
/// As order-place: a withdrawal reaches orders that are this much newer (`WITHDRAWAL_SKEW`).
const WITHDRAWAL_SKEW: u64 = 100_000;

#[derive(Clone, Debug)]
enum Step {
    /// A buyer orders; the clock of the buyer's region is off by up to 90 ms.
    Order {
        buyer: u8,
        skew: i64,
    },
    /// A buyer withdraws the order.
    Leave {
        buyer: u8,
    },
    /// The next batch of a shard. If the process is killed after it, the mapping delivers the batch again later.
    Deliver {
        shard: usize,
        killed: bool,
    },
    /// At most `most` records of a shard that were delivered before.
    Again {
        shard: usize,
        from: usize,
        most: usize,
    },
    Drain {
        most: u32,
    },
    /// A reservation ends.
    Release {
        buyer: u8,
    },
    Window {
        ms: u64,
    },
    /// Time passes: also that of a mapping that stops.
    Pass {
        micros: u64,
    },
    /// Main's clock is set.
    Set {
        by: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..BUYERS, -90_000..90_000_i64).prop_map(|(buyer, skew)| Step::Order { buyer, skew }),
        2 => (0..BUYERS).prop_map(|buyer| Step::Leave { buyer }),
        5 => (0..SHARDS, any::<bool>()).prop_map(|(shard, killed)| Step::Deliver { shard, killed }),
        4 => (0..SHARDS, 0..20_usize, prop_oneof![1..4_usize, Just(20)])
            .prop_map(|(shard, from, most)| Step::Again { shard, from, most }),
        4 => prop_oneof![1..3_u32, Just(500)].prop_map(|most| Step::Drain { most }),
        2 => (0..BUYERS).prop_map(|buyer| Step::Release { buyer }),
        1 => prop_oneof![Just(500_u64), Just(2_000), Just(10_000)].prop_map(|ms| Step::Window { ms }),
        5 => prop_oneof![0..300_000_u64, 0..5_000_000_u64].prop_map(|micros| Step::Pass { micros }),
        1 => (-6_000_000..3_000_000_i64).prop_map(|by| Step::Set { by }),
    ]
}

/// A record of the log.
#[derive(Clone, Debug)]
struct Record {
    sent: Sent,
    is_leave: bool,
}

/// What main has said about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Queued,
    Superseded,
    Refused,
}

struct World<'a> {
    scripts: &'a Scripts,
    connection: &'a mut MultiplexedConnection,
    keys: Keys,
    now: u64,
    /// Main's clock minus the true time.
    main_is_off: i64,
    /// The records of each shard, and how far it is delivered.
    shards: [(Vec<Record>, usize); SHARDS],
    /// With main's clock at that moment.
    said: BTreeMap<(u64, String), (Said, u64)>,
    /// Orders whose withdrawal main has got.
    withdrawn: BTreeSet<(u64, String)>,
    released: u32,
}

impl World<'_> {
    fn main_now(&self) -> u64 {
        self.now.saturating_add_signed(self.main_is_off)
    }

    /// Delivers the records `range` of a shard, as order-place applies a batch; returns how many are decided before the
    /// first one that is not.
    async fn deliver(&mut self, shard: usize, range: Range<usize>) -> Result<Result<usize, String>> {
        let records = self.shards[shard].0[..range.end].to_vec();
        let last_leave = |buyer: &str| {
            records[range.clone()].iter().rposition(|record| record.is_leave && record.sent.buyer == buyer)
        };
        let now = self.main_now();
        let mut sent = Vec::new();
        for (position, record) in records[range.clone()].iter().enumerate() {
            match last_leave(&record.sent.buyer) {
                Some(leave) if leave == position => {
                    let newest = record.sent.stamp + WITHDRAWAL_SKEW;
                    self.scripts.leave(self.connection, &self.keys, &record.sent, newest, now).await?;
                    let earlier = records[..range.start + position].iter().map(|earlier| &earlier.sent);
                    let own = earlier.filter(|earlier| earlier.buyer == record.sent.buyer);
                    self.withdrawn.extend(own.map(|earlier| (earlier.stamp, earlier.buyer.clone())));
                }
                // The batch itself withdraws it.
                Some(leave) if position < leave => {}
                _ => sent.push((position, record.sent.clone())),
            }
        }
        if sent.is_empty() {
            return Ok(Ok(range.len()));
        }
        let batch: Vec<Sent> = sent.iter().map(|(_, order)| order.clone()).collect();
        let answers = self.scripts.place_batch(self.connection, &self.keys, &batch, 2_000_000, now).await?;
        let mut decided = range.len();
        for ((position, order), answer) in sent.into_iter().zip(answers) {
            let said = match answer {
                Answer::Queued => Said::Queued,
                Answer::Known(..) => Said::Superseded,
                Answer::TooLate => Said::Refused,
                // Main has answered the ones after it in the batch, too.
                Answer::ClockAhead => {
                    decided = decided.min(position);
                    continue;
                }
            };
            if let Err(error) = self.hear(order, said) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(decided))
    }

    /// A refusal is final, unless main's clock was set back, and an order that was queued is not refused.
    fn hear(&mut self, Sent { buyer, stamp }: Sent, said: Said) -> Result<(), String> {
        let now = self.main_now();
        match self.said.get(&(stamp, buyer.clone())) {
            Some((Said::Refused, at)) if said == Said::Queued && now >= *at => {
                return Err(format!("{buyer}'s order of {stamp} was refused, and is queued"));
            }
            Some((Said::Queued, _))
                if said == Said::Refused && !self.withdrawn.contains(&(stamp, buyer.clone())) =>
            {
                return Err(format!("{buyer}'s order of {stamp} was queued, and is refused"));
            }
            Some((Said::Queued, _)) if said == Said::Superseded => return Ok(()),
            _ => {}
        }
        self.said.insert((stamp, buyer), (said, now));
        Ok(())
    }

    async fn apply(&mut self, step: &Step) -> Result<Result<(), String>> {
        match *step {
            Step::Order { buyer, skew } => {
                let sent =
                    Sent { buyer: format!("buyer-{buyer}"), stamp: self.now.saturating_add_signed(skew) };
                self.append(usize::from(buyer) % SHARDS, Record { sent, is_leave: false });
            }
            Step::Leave { buyer } => {
                let sent = Sent { buyer: format!("buyer-{buyer}"), stamp: self.now };
                self.append(usize::from(buyer) % SHARDS, Record { sent, is_leave: true });
            }
            Step::Deliver { shard, killed } => {
                let (records, from) = &self.shards[shard];
                let (from, to) = (*from, (from + BATCH).min(records.len()));
                match self.deliver(shard, from..to).await? {
                    Ok(decided) if !killed => self.shards[shard].1 = from + decided,
                    Ok(_) => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
            Step::Again { shard, from, most } => {
                let to = self.shards[shard].1;
                let from = from.min(to);
                if let Err(error) = self.deliver(shard, from..(from + most).min(to)).await? {
                    return Ok(Err(error));
                }
            }
            Step::Drain { most } => {
                let (main, caller) = (self.main_now(), self.now);
                self.scripts.drain(self.connection, &self.keys, most, main, caller).await?;
            }
            Step::Release { buyer } => {
                let buyer = format!("buyer-{buyer}");
                let hold: Option<f64> = self.connection.zscore(&self.keys.reservations, &buyer).await?;
                if hold.is_some_and(|hold| hold >= 0.0) {
                    let now = self.main_now();
                    self.scripts.release(self.connection, &self.keys, &buyer, now).await?;
                    self.released += 1;
                }
            }
            Step::Window { ms } => {
                let _: () = self.connection.hset(&self.keys.item, "settle_window_ms", ms).await?;
            }
            Step::Pass { micros } => self.now += micros,
            Step::Set { by } => self.main_is_off = by,
        }
        let back = self.waiting().await?.into_iter().find(|order| self.withdrawn.contains(order));
        Ok(back.map_or(Ok(()), |order| Err(format!("{order:?} was withdrawn, and is queued"))))
    }

    /// The queue: stamp and buyer.
    async fn waiting(&mut self) -> Result<Vec<(u64, String)>> {
        let orders: Vec<(String, u64)> = self.connection.zrange_withscores(&self.keys.orders, 0, -1).await?;
        Ok(orders.into_iter().map(|(buyer, stamp)| (stamp, buyer)).collect())
    }

    /// In one region a buyer's stamps rise. What a buyer does after a withdrawal is later by more than the clocks of the
    /// region's machines differ.
    fn append(&mut self, shard: usize, record: Record) {
        let (records, _) = &mut self.shards[shard];
        let newest = records.iter().rfind(|one| one.sent.buyer == record.sent.buyer);
        let is_newer = newest.is_none_or(|newest| {
            let skew = if newest.is_leave { WITHDRAWAL_SKEW } else { 0 };
            record.sent.stamp > newest.sent.stamp + skew
        });
        if is_newer {
            records.push(record);
        }
    }

    /// All is delivered and drained; then the books are compared.
    async fn end(&mut self) -> Result<Result<(), String>> {
        self.main_is_off = 0;
        self.now += 200_000;
        for shard in 0..SHARDS {
            let (from, to) = (self.shards[shard].1, self.shards[shard].0.len());
            match self.deliver(shard, from..to).await? {
                Ok(decided) if decided == to - from => {}
                other => return Ok(Err(format!("shard {shard} is not decided: {other:?}"))),
            }
        }
        self.now += 60_000_000;
        let (now, keys) = (self.now, &self.keys);
        while self.scripts.drain(self.connection, keys, 500, now, now).await?.taken > 0 {}
        let served = reserved(self.connection, keys).await?;
        let mut sorted = served.clone();
        sorted.sort();
        sorted.dedup();
        if served != sorted {
            return Ok(Err(format!("not in the order of the stamps, or twice: {served:?}")));
        }
        if served.len() > (STOCK + self.released) as usize {
            return Ok(Err(format!("{} units of {STOCK}, and {} released", served.len(), self.released)));
        }
        let waiting = self.waiting().await?;
        let queued = self.said.iter().filter(|(_, (said, _))| *said == Said::Queued).map(|(order, _)| order);
        let mut kept = queued.filter(|order| !self.withdrawn.contains(*order));
        if let Some(order) = kept.find(|order| !served.contains(order) && !waiting.contains(order)) {
            return Ok(Err(format!("{order:?} was queued and not withdrawn, and is lost")));
        }
        let unheard =
            served.iter().find(|order| self.said.get(order).is_none_or(|(said, _)| *said != Said::Queued));
        Ok(unheard.map_or(Ok(()), |order| Err(format!("{order:?} was served: {:?}", self.said.get(order)))))
    }
}

async fn run(
    scripts: &Scripts,
    connection: &mut MultiplexedConnection,
    steps: &[Step],
) -> Result<Result<(), String>> {
    let _: () = redis::cmd("FLUSHDB").query_async(connection).await?;
    let keys = item(connection, "drop", STOCK, 2_000).await?;
    let _: () = connection.hset(&keys.item, "hold_seconds", 600).await?;
    let mut world = World {
        scripts,
        connection,
        keys,
        now: START,
        main_is_off: 0,
        shards: Default::default(),
        said: BTreeMap::new(),
        withdrawn: BTreeSet::new(),
        released: 0,
    };
    for step in steps {
        if let Err(error) = world.apply(step).await? {
            return Ok(Err(format!("{step:?}: {error}")));
        }
    }
    world.end().await
}

#[test]
fn a_log_that_delivers_late_and_again_serves_the_stamps_in_order_and_refuses_for_ever() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisQueue::start()).unwrap();
    let scripts = Scripts::new().unwrap();
    let connection = runtime.block_on(server.redis.connect()).unwrap();
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&proptest::collection::vec(step(), 1..80), |steps| {
        let verdict = runtime.block_on(run(&scripts, &mut connection.clone(), &steps));
        verdict.map_err(|error| TestCaseError::fail(error.to_string()))?.map_err(TestCaseError::fail)
    });
    outcome.unwrap();
}

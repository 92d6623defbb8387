//! The two other strategies, on the same arrivals and with real Redis commands.
//!
//! The orders of a drop arrive at main after their region's one-way delay. A
//! **list** serves them in that order (`RPUSH`, `LPOP`). A **sorted set popped at
//! once** takes each by its stamp and pops whatever has arrived every millisecond
//! (`ZADD NX`, `ZPOPMIN`), as a drain without a settle window would. Only the
//! times of arrival are computed; Redis decides who wins.

use crate::crowd::SentOrder;
use crate::system::regions::WorldRegion;
use anyhow::{Context, Result};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use std::collections::HashSet;

const LIST: &str = "comparison:list";
const ZSET: &str = "comparison:zset";
/// Commands sent together.
const PIPELINE: usize = 1_000;

/// An order, with its computed arrival at main.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Landing {
    /// When it arrives at main, in microseconds since the epoch.
    pub lands_at: u64,
    /// When it arrived at its region.
    pub arrived_at: u64,
    pub subject: String,
}

/// When the orders that reached their region arrive at main, the earliest first.
pub fn landings(sent: &[SentOrder], regions: &[WorldRegion]) -> Result<Vec<Landing>> {
    let mut landings = sent
        .iter()
        .filter_map(|order| Some((order, order.arrived_at?)))
        .map(|(order, arrived_at)| {
            let region = regions.get(order.region).with_context(|| {
                format!("an order is from region {}, which the system does not have", order.region)
            })?;
            let one_way_micros = (region.round_trip_ms * 500.0) as u64;
            Ok(Landing { lands_at: arrived_at + one_way_micros, arrived_at, subject: order.subject.clone() })
        })
        .collect::<Result<Vec<_>>>()?;
    landings.sort_unstable();
    Ok(landings)
}

/// Who wins if main serves in order of arrival at main.
pub async fn list(
    connection: &mut MultiplexedConnection,
    landings: &[Landing],
    stock: usize,
) -> Result<HashSet<String>> {
    let _: () = connection.del(LIST).await?;
    for landed in landings.chunks(PIPELINE) {
        let subjects: Vec<&str> = landed.iter().map(|landing| landing.subject.as_str()).collect();
        let _: () = connection.rpush(LIST, subjects).await?;
    }
    let winners: Option<Vec<String>> =
        redis::cmd("LPOP").arg(LIST).arg(stock).query_async(connection).await?;
    let _: () = connection.del(LIST).await?;
    Ok(winners.unwrap_or_default().into_iter().collect())
}

/// Who wins if main serves by stamp, at once.
pub async fn zset_popped_at_once(
    connection: &mut MultiplexedConnection,
    landings: &[Landing],
    stock: usize,
) -> Result<HashSet<String>> {
    let _: () = connection.del(ZSET).await?;
    let mut winners = HashSet::new();
    for landed in landings.chunk_by(|a, b| a.lands_at / 1_000 == b.lands_at / 1_000) {
        if winners.len() >= stock {
            break;
        }
        let mut add = redis::cmd("ZADD");
        add.arg(ZSET).arg("NX");
        for landing in landed {
            add.arg(landing.arrived_at).arg(&landing.subject);
        }
        let _: () = add.query_async(connection).await?;
        let popped: Vec<(String, f64)> = connection.zpopmin(ZSET, (stock - winners.len()) as isize).await?;
        winners.extend(popped.into_iter().map(|(subject, _)| subject));
    }
    let _: () = connection.del(ZSET).await?;
    Ok(winners)
}

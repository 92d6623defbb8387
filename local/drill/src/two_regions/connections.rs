//! The network connections between the regions, each with the delay of the distance.

use super::servers::{RegionServers, ledger_url};
use anyhow::Result;
use local::system::redis_server;
use local::system::regions::WorldRegion;
use local::system::wan::{ConnectionState, WanConnection};
use std::collections::HashMap;
use std::time::Duration;

/// One-way delay between the edge and the standby. It is not published; the sum of both delays to main is an upper
/// bound.
const EDGE_TO_STANDBY: Duration = Duration::from_millis(110);
/// One-way delay within a region.
const WITHIN: Duration = Duration::from_micros(500);

/// How main is partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// From the other regions and from the lease's table.
    Whole,
    /// From the other regions, and not from the lease's table: main goes on selling until it reads
    /// there that it must stop.
    FromRegions,
}

/// The connections to main's servers, which are opened before the standby starts.
#[derive(Debug)]
pub(super) struct ToMain {
    /// From the standby to the ledger.
    pub(super) ledger: WanConnection,
    /// From the standby to Redis.
    pub(super) redis: WanConnection,
    from_main: WanConnection,
    from_edge: WanConnection,
    one_way: Duration,
}

impl ToMain {
    pub(super) async fn lay(main: &RegionServers, [_, standby, edge]: [WorldRegion; 3]) -> Result<Self> {
        let one_way = |region: WorldRegion| Duration::from_secs_f64(region.round_trip_ms / 2_000.0);
        let redis = port(&main.urls.redis)?;
        Ok(Self {
            ledger: connection(main.ledger_proxy.port(), one_way(standby)).await?,
            redis: connection(redis, one_way(standby)).await?,
            from_main: connection(redis, WITHIN).await?,
            from_edge: connection(redis, one_way(edge)).await?,
            one_way: one_way(standby),
        })
    }
}

/// All connections.
#[derive(Debug)]
pub struct Connections {
    /// From the standby to main's ledger.
    pub ledger_to_main: WanConnection,
    /// From main to the standby's ledger, for replication after the roles are exchanged.
    pub ledger_to_standby: WanConnection,
    /// From the standby to main's Redis.
    pub redis_to_main: WanConnection,
    /// From main to the standby's Redis.
    pub redis_to_standby: WanConnection,
    /// From the edge to main's Redis.
    pub edge_to_main: WanConnection,
    /// From the edge to the standby's Redis.
    pub edge_to_standby: WanConnection,
    /// From main to the tables.
    pub main_to_tables: WanConnection,
    /// From the standby to the tables.
    pub standby_to_tables: WanConnection,
    /// From main's and the standby's functions to Redis of their own region.
    within: [WanConnection; 2],
}

impl Connections {
    pub(super) async fn lay(to_main: ToMain, standby: &RegionServers, tables: u16) -> Result<Self> {
        let redis = port(&standby.urls.redis)?;
        Ok(Self {
            ledger_to_standby: connection(standby.ledger_proxy.port(), to_main.one_way).await?,
            redis_to_standby: connection(redis, to_main.one_way).await?,
            edge_to_standby: connection(redis, EDGE_TO_STANDBY).await?,
            // Strong consistency between regions costs each call a round trip to another region.
            main_to_tables: connection(tables, to_main.one_way).await?,
            standby_to_tables: connection(tables, to_main.one_way).await?,
            within: [to_main.from_main, connection(redis, WITHIN).await?],
            ledger_to_main: to_main.ledger,
            redis_to_main: to_main.redis,
            edge_to_main: to_main.from_edge,
        })
    }

    /// Servers' addresses, and the address by which a region reaches each.
    pub(super) fn addresses(
        &self,
        region: usize,
        main: &RegionServers,
        standby: &RegionServers,
    ) -> HashMap<String, String> {
        let redis = |connection: &WanConnection| redis_server::url_at(connection.port());
        let [within_main, within_standby] = &self.within;
        let to = match region {
            super::MAIN => vec![
                (&main.urls.redis, redis(within_main)),
                (&standby.urls.redis, redis(&self.redis_to_standby)),
                (&standby.urls.ledger, ledger_url(self.ledger_to_standby.port())),
            ],
            super::STANDBY => vec![
                (&main.urls.redis, redis(&self.redis_to_main)),
                (&standby.urls.redis, redis(within_standby)),
                (&main.urls.ledger, ledger_url(self.ledger_to_main.port())),
            ],
            _ => vec![
                (&main.urls.redis, redis(&self.edge_to_main)),
                (&standby.urls.redis, redis(&self.edge_to_standby)),
            ],
        };
        to.into_iter().map(|(address, reached_at)| (address.clone(), reached_at)).collect()
    }

    /// Partitions main, or restores all connections.
    pub(super) fn cut(&self, cut: Option<Cut>) {
        let state = |is_cut| if is_cut { ConnectionState::Silent } else { ConnectionState::Up };
        let others = [
            &self.ledger_to_main,
            &self.ledger_to_standby,
            &self.redis_to_main,
            &self.redis_to_standby,
            &self.edge_to_main,
        ];
        others.iter().for_each(|connection| connection.set(state(cut.is_some())));
        self.main_to_tables.set(state(cut == Some(Cut::Whole)));
    }
}

async fn connection(port: u16, one_way: Duration) -> Result<WanConnection> {
    WanConnection::open(([127, 0, 0, 1], port).into(), one_way).await
}

fn port(url: &str) -> Result<u16> {
    Ok(url.rsplit(':').next().unwrap_or_default().parse()?)
}

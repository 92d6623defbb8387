//! The SDK's client, and paged lists.

use crate::{RdsError, Snapshot, refusal, snapshot};
use aws_sdk_rds::Client;
use sdk::{Region, SdkConfig};

/// The page size: the most that RDS returns in one answer.
pub const PAGE: i32 = 100;
/// The most pages of one list: 20,000 snapshots in a region.
const MAX_PAGES: usize = 200;

/// A client for one region.
pub fn client(config: &SdkConfig, region: &str) -> Client {
    let config = aws_sdk_rds::config::Builder::from(config).region(Region::new(region.to_owned())).build();
    Client::from_conf(config)
}

/// All manual snapshots of the client's region, including those that fairdrop did not make. RDS returns their
/// tags in the same answer.
pub async fn manual_snapshots(client: &Client) -> Result<Vec<Snapshot>, RdsError> {
    let call = client.describe_db_snapshots().snapshot_type("manual").max_records(PAGE);
    pages(async |marker| {
        let page = call.clone().set_marker(marker).send().await.map_err(refusal)?;
        let found = page.db_snapshots().iter().filter_map(snapshot::snapshot).collect();
        Ok((found, page.marker))
    })
    .await
}

pub async fn one_snapshot(client: &Client, id: &str) -> Result<Snapshot, RdsError> {
    let found = client.describe_db_snapshots().db_snapshot_identifier(id).send().await.map_err(refusal)?;
    found.db_snapshots().iter().find_map(snapshot::snapshot).ok_or(RdsError::NotFound)
}

/// Reads all pages of a list.
pub async fn pages<T>(
    mut page: impl AsyncFnMut(Option<String>) -> Result<(Vec<T>, Option<String>), RdsError>,
) -> Result<Vec<T>, RdsError> {
    let mut all = Vec::new();
    let mut marker = None;
    for _ in 0..MAX_PAGES {
        let (found, next) = page(marker).await?;
        all.extend(found);
        marker = next.filter(|marker| !marker.is_empty());
        if marker.is_none() {
            return Ok(all);
        }
    }
    let message = format!("the list has more than {MAX_PAGES} pages");
    Err(RdsError::Refused { code: "TooManyPages".into(), message })
}

//! The order logs of all regions, for a replay and for the audit of the order book.

use crate::{DISTANT, OrderLog};
use shared::config::{self, ConfigError, Source};

const NAME: &str = "FAIRDROP_ORDER_LOGS";
/// The maximum number of regions.
const MAX_REGIONS: usize = 16;

/// The order log of one region, which may be far away.
#[derive(Clone, Debug)]
pub struct RegionLog {
    pub region: String,
    pub log: OrderLog,
}

impl RegionLog {
    /// The logs in `FAIRDROP_ORDER_LOGS`, `region=table` separated by commas; none if the variable is not set. Nothing is
    /// connected yet.
    pub fn all_from_config(source: Source) -> Result<Vec<Self>, ConfigError> {
        let logs = parse(&config::optional(source, NAME).unwrap_or_default())?;
        let log = |(region, table): &(String, String)| Self {
            region: region.clone(),
            log: OrderLog::with_time_limits(sdk::defaults(), region, table, DISTANT),
        };
        Ok(logs.iter().map(log).collect())
    }
}

/// Each region with its table.
fn parse(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let wrong = || ConfigError::bad(NAME, "it must be region=table, separated by commas, each region once");
    let mut logs: Vec<(String, String)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (region, table) = part.split_once('=').ok_or_else(wrong)?;
        let is_known = logs.iter().any(|(known, _)| known == region);
        if region.is_empty() || table.is_empty() || is_known || logs.len() == MAX_REGIONS {
            return Err(wrong());
        }
        logs.push((region.to_owned(), table.to_owned()));
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_has_one_table() {
        let pair = |region: &str, table: &str| (region.to_owned(), table.to_owned());
        assert_eq!(parse(""), Ok(Vec::new()));
        assert_eq!(parse("a=t, b=t,"), Ok(vec![pair("a", "t"), pair("b", "t")]));
        for wrong in ["a", "=t", "a=", "a=t,a=u"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

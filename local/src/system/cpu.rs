//! The CPU time of this program and of all processes that it has started, by program.

use std::collections::{BTreeMap, HashMap};

/// Linux counts CPU time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// The name of this program's own share: gateways, buyers, tables, mappings and networks.
pub const OWN: &str = "local system";

/// Seconds of CPU by program. Empty where there is no `/proc`.
pub fn seconds() -> BTreeMap<String, f64> {
    let processes: HashMap<u32, Stat> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| {
            Some((id, Stat::parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))
        })
        .collect();
    let own = std::process::id();
    let descends = |mut id: u32| {
        // The chain of parents ends at the first process.
        while id > 1 && id != own {
            id = processes.get(&id).map_or(0, |stat| stat.parent);
        }
        id == own
    };
    let mut seconds = BTreeMap::new();
    for (id, stat) in processes.iter().filter(|(id, _)| descends(**id)) {
        let name = if *id == own { OWN } else { &stat.name };
        *seconds.entry(name.to_owned()).or_default() += stat.seconds;
    }
    seconds
}

/// What was used since `before`.
pub fn since(before: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let used = |(name, now): (String, f64)| {
        let used = now - before.get(&name).copied().unwrap_or_default();
        (name, used)
    };
    seconds().into_iter().map(used).filter(|(_, used)| *used > 0.0).collect()
}

struct Stat {
    name: String,
    parent: u32,
    seconds: f64,
}

impl Stat {
    /// Reads `id (name) state parent ... utime stime ...`; a name may have spaces and parentheses.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.split_once('(')?;
        let (name, rest) = rest.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |position: usize| fields.get(position)?.parse::<f64>().ok();
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { name: name.to_owned(), parent, seconds: (number(11)? + number(12)?) / TICKS_PER_SECOND })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_process_is_read() {
        let stat = Stat::parse("7 (a (b) c) S 3 7 7 0 -1 0 0 0 0 0 250 50 9 9 20 0 1 0 5").unwrap();
        assert_eq!((stat.name.as_str(), stat.parent, stat.seconds), ("a (b) c", 3, 3.0));
        assert!(Stat::parse("7 (a) S").is_none());
        let before = seconds();
        if !before.is_empty() {
            assert!(before.contains_key(OWN), "{before:?}");
        }
    }
}

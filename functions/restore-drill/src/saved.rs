//! The result of a finished check, in a tag of the snapshot that was checked. The drill saves it before it deletes the
//! instance: an invocation that dies after that loses its answer, and not the result.

use crate::LedgerCheck;
use ledger::LATEST_MIGRATION;
use rds::{Snapshot, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;

/// In characters: the longest value of a tag.
const MAX_VALUE: usize = 256;

/// A finished check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SavedCheck {
    /// Identifier of the snapshot.
    pub snapshot: String,
    /// When the restore began.
    pub started_at: Timestamp,
    pub checked_at: Timestamp,
    /// From the start of the restore to the first answer of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable_after_seconds: Option<i64>,
    pub check: LedgerCheck,
}

impl SavedCheck {
    /// The newest finished check of `snapshots`.
    pub(crate) fn newest<'a>(snapshots: impl IntoIterator<Item = &'a Snapshot>) -> Option<Self> {
        let saved = snapshots.into_iter().filter_map(|one| Self::parse(one, one.last_drill.as_deref()?));
        saved.max_by_key(|saved| saved.checked_at)
    }

    /// The value of the tag: names with numbers, and the problems as the last. RDS refuses some characters in a tag,
    /// so in the problems a space replaces them.
    pub(crate) fn tag_value(&self) -> String {
        let check = &self.check;
        let mut text = format!(
            "started={} checked={} passed={} schema={} expected={} items={} sales={}",
            self.started_at.unix_seconds(),
            self.checked_at.unix_seconds(),
            u8::from(check.passed),
            check.schema_version,
            check.expected_version,
            check.items,
            check.sales
        );
        let newest = check.newest_sale_at.map(Timestamp::unix_seconds);
        let optional = [
            ("usable", self.usable_after_seconds),
            ("newest", newest),
            ("before", check.newest_sale_seconds_before_recovery_point),
        ];
        for (name, number) in optional {
            if let Some(number) = number {
                text.push_str(&format!(" {name}={number}"));
            }
        }
        if !check.problems.is_empty() {
            text.push_str(&format!(" problems={}", check.problems.join(" ")));
        }
        let allowed = |one: char| if one.is_alphanumeric() || "_.:/=+-@".contains(one) { one } else { ' ' };
        text.chars().map(allowed).take(MAX_VALUE).collect::<String>().trim_end().to_owned()
    }

    fn parse(snapshot: &Snapshot, text: &str) -> Option<Self> {
        let (text, problems) = match text.split_once(" problems=") {
            Some((text, problems)) => (text, vec![problems.to_owned()]),
            None => (text, Vec::new()),
        };
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        let numbers: BTreeMap<&str, i64> =
            pairs.filter_map(|(name, number)| Some((name, number.parse().ok()?))).collect();
        let number = |name: &str| numbers.get(name).copied();
        Some(Self {
            snapshot: snapshot.id.clone(),
            started_at: Timestamp::from_unix_seconds(number("started")?),
            checked_at: Timestamp::from_unix_seconds(number("checked")?),
            usable_after_seconds: number("usable"),
            check: LedgerCheck {
                passed: number("passed")? == 1,
                problems,
                schema_version: number("schema").unwrap_or_default(),
                expected_version: number("expected").unwrap_or(LATEST_MIGRATION),
                items: number("items").unwrap_or_default(),
                sales: number("sales").unwrap_or_default(),
                newest_sale_at: number("newest").map(Timestamp::from_unix_seconds),
                newest_sale_seconds_before_recovery_point: number("before"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds::SnapshotState;

    fn snapshot(id: &str, last_drill: Option<String>) -> Snapshot {
        Snapshot {
            id: id.into(),
            arn: "arn".into(),
            database: "ledger".into(),
            state: SnapshotState::Available,
            taken_at: None,
            created_at: None,
            database_time: None,
            is_encrypted: false,
            is_copy: false,
            tag: None,
            last_drill,
        }
    }

    fn saved(id: &str, checked_at: i64, problems: &[&str]) -> SavedCheck {
        SavedCheck {
            snapshot: id.into(),
            started_at: Timestamp::from_unix_seconds(1_795_442_000),
            checked_at: Timestamp::from_unix_seconds(checked_at),
            usable_after_seconds: Some(540),
            check: LedgerCheck {
                passed: problems.is_empty(),
                problems: problems.iter().map(|text| (*text).to_owned()).collect(),
                schema_version: 14,
                expected_version: 14,
                items: 3,
                sales: 1_234_567,
                newest_sale_at: Some(Timestamp::from_unix_seconds(1_795_441_000)),
                newest_sale_seconds_before_recovery_point: Some(30),
            },
        }
    }

    #[test]
    fn a_result_survives_in_a_tag_that_rds_accepts() {
        for problems in [&[][..], &["2 units are taken by sales"]] {
            let result = saved("a", 1_795_442_700, problems);
            assert_eq!(SavedCheck::newest(&[snapshot("a", Some(result.tag_value()))]), Some(result));
        }
        let text = "could not read \"ledger\" (timed out), ".repeat(20);
        let value = saved("a", 1_795_442_700, &[&text]).tag_value();
        assert!(value.len() <= MAX_VALUE, "{value}");
        assert!(value.chars().all(|one| one.is_alphanumeric() || " _.:/=+-@".contains(one)), "{value}");
        assert!(!SavedCheck::newest(&[snapshot("a", Some(value))]).unwrap().check.passed);
    }

    #[test]
    fn the_newest_result_counts_and_other_texts_are_ignored() {
        let of = |id: &str, at| snapshot(id, Some(saved(id, at, &[]).tag_value()));
        let all =
            [of("a", 5), of("b", 9), of("c", 7), snapshot("d", Some("yes".into())), snapshot("e", None)];
        assert_eq!(SavedCheck::newest(&all).map(|saved| saved.snapshot), Some("b".into()));
        assert_eq!(SavedCheck::newest(&all[3..]), None);
    }
}

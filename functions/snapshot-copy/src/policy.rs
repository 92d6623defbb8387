//! What should exist: snapshots of which databases, how often, where, and for how long. The function reads the
//! policy once, from `FAIRDROP_SNAPSHOT_POLICY`, and does not start if any part of it is invalid. The prefix is
//! in `FAIRDROP_SNAPSHOT_PREFIX`, because the function's rights name it, too.

use crate::retention::Retention;
use serde::Deserialize;
use shared::config::{self, ConfigError, Source};
use std::collections::BTreeSet;

/// The policy as JSON.
const VARIABLE: &str = "FAIRDROP_SNAPSHOT_POLICY";
const PREFIX_VARIABLE: &str = "FAIRDROP_SNAPSHOT_PREFIX";
const MAX_TARGETS: usize = 5;
const MAX_DATABASES: usize = 50;
/// The highest number of snapshots that a tier may keep.
const MAX_TIER: u32 = 1_000;
/// In characters. With an identifier of 63 characters and a slot, a snapshot's identifier stays below the 255
/// characters that RDS allows.
const MAX_PREFIX: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The identifier of every snapshot begins with it and a hyphen. Two stacks in one account have different
    /// prefixes. From `FAIRDROP_SNAPSHOT_PREFIX`.
    #[serde(skip)]
    pub id_prefix: String,
    pub databases: DatabaseSelection,
    /// Minutes from one snapshot to the next: 15 to 1,440, and a divisor of 1,440.
    #[serde(default = "default_interval_minutes")]
    pub interval_minutes: u32,
    /// Applies in the region of the databases, and in targets without a retention of their own.
    pub retention: Retention,
    /// The number of newest snapshots of each database and region that are never deleted: 1 to 100.
    #[serde(default = "default_floor")]
    pub floor: u32,
    /// The regions that get copies.
    #[serde(default)]
    pub targets: Vec<TargetRegion>,
    #[serde(default)]
    pub limits: RunLimits,
}

/// Selects DB instances by identifier, and those that have the tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSelection {
    pub ids: Vec<String>,
    pub tag: Option<DatabaseTag>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseTag {
    /// 1 to 128 characters, not beginning with `aws:`.
    pub key: String,
    /// 0 to 256 characters.
    #[serde(default)]
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetRegion {
    pub region: String,
    /// The key that encrypts the copies: an ARN or an alias in the target region. Encrypted snapshots cannot
    /// be copied without one.
    #[serde(default)]
    pub kms_key_id: Option<String>,
    /// The policy's retention if it is missing.
    #[serde(default)]
    pub retention: Option<Retention>,
    /// The policy's floor if it is missing.
    #[serde(default)]
    pub floor: Option<u32>,
}

/// Limits one run. The next run does the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunLimits {
    /// Snapshots that a run takes: 1 to 100.
    pub creates: u32,
    /// Copies that a run begins in each target region: 1 to 20, the most that RDS allows in progress.
    pub copies: u32,
    /// Snapshots that a run deletes in each region: 1 to 500.
    pub deletes: u32,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self { creates: 20, copies: 20, deletes: 50 }
    }
}

fn default_interval_minutes() -> u32 {
    60
}

fn default_floor() -> u32 {
    2
}

/// What one region keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionRule {
    pub retention: Retention,
    pub floor: u32,
}

impl Policy {
    /// Reads and checks the policy of a function in `own_region`.
    pub fn from_config(source: Source, own_region: &str) -> Result<Self, ConfigError> {
        let text = config::required(source, VARIABLE)?;
        let policy: Self = serde_json::from_str(&text).map_err(|why| ConfigError::bad(VARIABLE, why))?;
        let policy = Self { id_prefix: prefix(source)?, ..policy };
        policy.check(own_region).map_err(|why| ConfigError::bad(VARIABLE, why))?;
        Ok(policy)
    }

    /// What the region of the databases keeps.
    pub fn source_retention(&self) -> RetentionRule {
        RetentionRule { retention: self.retention, floor: self.floor }
    }

    /// What `target` keeps.
    pub fn retention_in(&self, target: &TargetRegion) -> RetentionRule {
        RetentionRule {
            retention: target.retention.unwrap_or(self.retention),
            floor: target.floor.unwrap_or(self.floor),
        }
    }

    /// Checks the policy. The error names the invalid part.
    pub fn check(&self, own_region: &str) -> Result<(), String> {
        self.databases.check()?;
        if !(15..=1_440).contains(&self.interval_minutes) || 1_440 % self.interval_minutes != 0 {
            return Err("interval_minutes must divide a day (1440) and be 15 to 1440".into());
        }
        check_retention("", self.source_retention())?;
        if self.targets.len() > MAX_TARGETS {
            return Err(format!("targets: at most {MAX_TARGETS} regions are allowed"));
        }
        let mut regions = BTreeSet::new();
        for target in &self.targets {
            let region = &target.region;
            if !is_region(region) {
                return Err(format!("targets: {region:?} is no region code such as eu-west-1"));
            }
            if region.starts_with("us-gov-") {
                return Err(format!("targets: {region}: copies between GovCloud regions are not supported"));
            }
            if region == own_region {
                return Err(format!("targets: {region} is the region of the databases; name another region"));
            }
            if !regions.insert(region) {
                return Err(format!("targets: {region} occurs twice"));
            }
            check_retention(&format!("target {region}: "), self.retention_in(target))?;
            if let Some(key) = &target.kms_key_id {
                check_key(key, region)?;
            }
        }
        let RunLimits { creates, copies, deletes } = self.limits;
        if !(1..=100).contains(&creates) || !(1..=20).contains(&copies) || !(1..=500).contains(&deletes) {
            return Err("limits: creates must be 1 to 100, copies 1 to 20, deletes 1 to 500".into());
        }
        Ok(())
    }
}

fn prefix(source: Source) -> Result<String, ConfigError> {
    let prefix = config::required(source, PREFIX_VARIABLE)?;
    if is_identifier(&prefix) && prefix.len() <= MAX_PREFIX {
        return Ok(prefix);
    }
    let why = format!(
        "the prefix must be 1 to {MAX_PREFIX} lower-case letters, digits and single hyphens, beginning with a letter"
    );
    Err(ConfigError::bad(PREFIX_VARIABLE, why))
}

impl DatabaseSelection {
    fn check(&self) -> Result<(), String> {
        if self.ids.is_empty() && self.tag.is_none() {
            return Err("databases must have ids or a tag".into());
        }
        if self.ids.len() > MAX_DATABASES {
            return Err(format!("databases: at most {MAX_DATABASES} ids are allowed"));
        }
        if let Some(id) = self.ids.iter().find(|id| !is_identifier(id) || id.len() > 63) {
            return Err(format!(
                "databases: {id:?} is no DB instance identifier (lower case, at most 63 characters)"
            ));
        }
        match &self.tag {
            Some(tag)
                if tag.key.is_empty() || tag.key.starts_with("aws:") || tag.key.chars().count() > 128 =>
            {
                Err("databases: the tag's key must have 1 to 128 characters and not begin with aws:".into())
            }
            Some(tag) if tag.value.chars().count() > 256 => {
                Err("databases: the tag's value may have at most 256 characters".into())
            }
            _ => Ok(()),
        }
    }
}

fn check_retention(of: &str, rule: RetentionRule) -> Result<(), String> {
    let Retention { hourly, daily, weekly, monthly } = rule.retention;
    if [hourly, daily, weekly, monthly].iter().any(|tier| *tier > MAX_TIER) {
        return Err(format!("{of}a tier of retention may keep at most {MAX_TIER} snapshots"));
    }
    if !(1..=100).contains(&rule.floor) {
        return Err(format!("{of}floor must be 1 to 100: the newest usable snapshot is never deleted"));
    }
    Ok(())
}

/// RDS encrypts a copy only with a key of the copy's region.
fn check_key(key: &str, region: &str) -> Result<(), String> {
    let parts: Vec<&str> = key.split(':').collect();
    let is_arn = matches!(parts[..], ["arn", _, "kms", of, _, _] if of == region);
    if is_arn || key.strip_prefix("alias/").is_some_and(|name| !name.is_empty()) {
        return Ok(());
    }
    Err(format!("target {region}: kms_key_id must be the ARN of a key of {region}, or alias/... in it"))
}

/// Whether RDS accepts it as an identifier: lower-case letters, digits and hyphens; it begins with a letter, has
/// no two hyphens in a row and does not end with one.
fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && !text.contains("--")
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    match parts.split_last() {
        Some((number, words)) => {
            number.len() == 1
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && words.len() >= 2
                && words.iter().all(|word| is_word(word))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(change: impl FnOnce(&mut Value)) -> Result<Policy, String> {
        let mut policy = json!({
            "databases": { "ids": ["ledger"], "tag": { "key": "drops", "value": "yes" } },
            "interval_minutes": 60,
            "retention": { "hourly": 24, "daily": 7 },
            "floor": 2,
            "targets": [
                { "region": "eu-west-1", "kms_key_id": "arn:aws:kms:eu-west-1:111122223333:key/abc" },
                { "region": "ap-southeast-2", "kms_key_id": "alias/drops", "retention": { "daily": 3 }, "floor": 1 }
            ],
            "limits": { "creates": 5 }
        });
        change(&mut policy);
        let source = move |name: &str| match name {
            VARIABLE => Some(policy.to_string()),
            _ => Some("fairdrop".to_owned()),
        };
        Policy::from_config(&source, "us-east-1").map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_policy_is_read() {
        let policy = read(|_| {}).unwrap();
        assert_eq!(policy.limits, RunLimits { creates: 5, copies: 20, deletes: 50 });
        assert_eq!(policy.retention_in(&policy.targets[0]), policy.source_retention());
        let other = policy.retention_in(&policy.targets[1]);
        assert_eq!((other.retention.daily, other.retention.hourly, other.floor), (3, 0, 1));
        let short = read(|policy| *policy = json!({ "databases": { "ids": ["b"] }, "retention": {} }));
        let short = short.unwrap();
        assert_eq!((short.interval_minutes, short.floor, short.targets.len()), (60, 2, 0));
    }

    #[test]
    fn an_invalid_policy_is_refused_with_the_reason() {
        let key = |arn: &str| json!([{ "region": "eu-west-1", "kms_key_id": arn }]);
        let cases = [
            ("/databases", json!({}), "ids or a tag"),
            ("/databases", json!({ "ids": ["Ledger"] }), "lower case"),
            ("/databases", json!({ "tag": { "key": "aws:x" } }), "aws:"),
            ("/interval_minutes", json!(14), "divide a day"),
            ("/interval_minutes", json!(50), "divide a day"),
            ("/interval_minutes", json!(2880), "divide a day"),
            ("/retention", json!({ "hourly": 1001 }), "at most 1000"),
            ("/retention", json!({ "yearly": 1 }), "yearly"),
            ("/floor", json!(0), "never deleted"),
            ("/targets", json!([{ "region": "us-east-1" }]), "name another region"),
            ("/targets", json!([{ "region": "us-gov-west-1" }]), "GovCloud"),
            ("/targets", json!([{ "region": "Europe" }]), "no region code"),
            ("/targets", json!([{ "region": "eu-west-1" }, { "region": "eu-west-1" }]), "twice"),
            ("/targets", json!([{ "region": "eu-west-1", "floor": 0 }]), "target eu-west-1: floor"),
            ("/targets", key("arn:aws:kms:us-east-1:111122223333:key/abc"), "of a key of eu-west-1"),
            ("/targets", key("abc"), "kms_key_id"),
            ("/limits", json!({ "copies": 21 }), "1 to 20"),
            ("/limits", json!({ "pace": 1 }), "pace"),
        ];
        for (path, value, expected) in cases {
            let error = read(|policy| *policy.pointer_mut(path).unwrap() = value.clone()).unwrap_err();
            assert!(error.contains(VARIABLE) && error.contains(expected), "{path} {value}: {error}");
        }
    }

    #[test]
    fn a_prefix_must_be_valid_in_an_identifier_of_rds() {
        for wrong in ["rds:x", "a--b", "a-", "1a", "A", &"a".repeat(41)] {
            let error = prefix(&|_: &str| Some(wrong.to_owned())).unwrap_err().to_string();
            assert!(error.contains(PREFIX_VARIABLE), "{error}");
        }
        assert_eq!(prefix(&|_: &str| Some("drops-eu".to_owned())), Ok("drops-eu".into()));
    }
}

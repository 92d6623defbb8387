//! What should exist: which databases, how often, where, and for how long. Read once, from
//! `FAIRDROP_SNAPSHOT_POLICY`, and refused as a whole where any of it makes no sense. The
//! prefix stands in `FAIRDROP_SNAPSHOT_PREFIX`, because the function's rights name it too.

use crate::retention::Retention;
use serde::Deserialize;
use shared::config::{self, ConfigError, Source};
use std::collections::BTreeSet;

/// The environment variable with the policy, as JSON.
const VARIABLE: &str = "FAIRDROP_SNAPSHOT_POLICY";
const PREFIX_VARIABLE: &str = "FAIRDROP_SNAPSHOT_PREFIX";
/// The most target regions.
const MAX_TARGETS: usize = 5;
/// The most databases named by id.
const MAX_DATABASES: usize = 50;
/// The most snapshots that a tier may keep.
const MAX_TIER: u32 = 1_000;
/// The longest prefix: with a database's id of 63 characters and a slot it stays far below
/// the 255 that RDS allows.
const MAX_PREFIX: usize = 40;

/// What should exist.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What the id of every snapshot begins with, followed by a hyphen. Two stacks in one
    /// account have different ones. From `FAIRDROP_SNAPSHOT_PREFIX`.
    #[serde(skip)]
    pub id_prefix: String,
    /// Which databases.
    pub databases: Databases,
    /// Minutes from one snapshot to the next: 15 to 1,440, and a divisor of 1,440.
    #[serde(default = "an_hour")]
    pub interval_minutes: u32,
    /// What is kept in the databases' own region.
    pub retention: Retention,
    /// The newest snapshots of each database and region that are never deleted: 1 to 100.
    #[serde(default = "two")]
    pub floor: u32,
    /// Where copies go.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// What one run may do.
    #[serde(default)]
    pub limits: Limits,
}

/// Which databases: those with one of the ids, and those with the tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Databases {
    /// DB instance identifiers.
    pub ids: Vec<String>,
    /// A tag on the DB instance.
    pub tag: Option<Tag>,
}

/// A tag with its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// 1 to 128 characters, not beginning with `aws:`.
    pub key: String,
    /// 0 to 256 characters.
    #[serde(default)]
    pub value: String,
}

/// A region that gets copies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its code.
    pub region: String,
    /// The key of that region which encrypts the copies: an ARN of the region, or an
    /// alias in it. Copies of encrypted snapshots are impossible without one.
    #[serde(default)]
    pub kms_key_id: Option<String>,
    /// What is kept there; as in the databases' own region where nothing is said.
    #[serde(default)]
    pub retention: Option<Retention>,
    /// As the policy's floor, for the copies there.
    #[serde(default)]
    pub floor: Option<u32>,
}

/// What one run may do at most. What is left over is done by the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Snapshots taken: 1 to 100.
    pub creates: u32,
    /// Copies begun in each target region: 1 to 20, which is all that RDS lets be in progress.
    pub copies: u32,
    /// Snapshots deleted in each region: 1 to 500.
    pub deletes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { creates: 20, copies: 20, deletes: 50 }
    }
}

fn an_hour() -> u32 {
    60
}

fn two() -> u32 {
    2
}

/// What is kept in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// By calendar period.
    pub retention: Retention,
    /// The newest, whatever else.
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

    /// What is kept in the databases' own region.
    pub fn keeping(&self) -> Keeping {
        Keeping { retention: self.retention, floor: self.floor }
    }

    /// What is kept in `target`.
    pub fn keeping_in(&self, target: &Target) -> Keeping {
        Keeping {
            retention: target.retention.unwrap_or(self.retention),
            floor: target.floor.unwrap_or(self.floor),
        }
    }

    /// The policy, or what is wrong with it.
    pub fn check(&self, own_region: &str) -> Result<(), String> {
        self.databases.check()?;
        if !(15..=1_440).contains(&self.interval_minutes) || 1_440 % self.interval_minutes != 0 {
            return Err("interval_minutes must divide a day, from 15 to 1440".into());
        }
        check_keeping("", self.keeping())?;
        if self.targets.len() > MAX_TARGETS {
            return Err(format!("there may be at most {MAX_TARGETS} targets"));
        }
        let mut regions = BTreeSet::new();
        for target in &self.targets {
            let region = &target.region;
            if !is_region(region) {
                return Err(format!("targets: {region:?} is no region's code, as eu-west-1 is"));
            }
            if region == own_region {
                return Err(format!("targets: {region} is where the databases are; name another region"));
            }
            if !regions.insert(region) {
                return Err(format!("targets: {region} is there twice"));
            }
            check_keeping(&format!("target {region}: "), self.keeping_in(target))?;
            if let Some(key) = &target.kms_key_id {
                check_key(key, region)?;
            }
        }
        let Limits { creates, copies, deletes } = self.limits;
        if !(1..=100).contains(&creates) || !(1..=20).contains(&copies) || !(1..=500).contains(&deletes) {
            return Err("limits: creates is 1 to 100, copies 1 to 20, deletes 1 to 500".into());
        }
        Ok(())
    }
}

fn prefix(source: Source) -> Result<String, ConfigError> {
    let prefix = config::required(source, PREFIX_VARIABLE)?;
    if is_identifier(&prefix) && prefix.len() <= MAX_PREFIX {
        return Ok(prefix);
    }
    let why =
        format!("it must be 1 to {MAX_PREFIX} lower-case letters, digits and single hyphens, a letter first");
    Err(ConfigError::bad(PREFIX_VARIABLE, why))
}

impl Databases {
    fn check(&self) -> Result<(), String> {
        if self.ids.is_empty() && self.tag.is_none() {
            return Err("databases must have ids or a tag".into());
        }
        if self.ids.len() > MAX_DATABASES {
            return Err(format!("databases: at most {MAX_DATABASES} ids"));
        }
        if let Some(id) = self.ids.iter().find(|id| !is_identifier(id) || id.len() > 63) {
            return Err(format!("databases: {id:?} is no DB instance identifier in lower case"));
        }
        match &self.tag {
            Some(tag)
                if tag.key.is_empty() || tag.key.starts_with("aws:") || tag.key.chars().count() > 128 =>
            {
                Err("databases: the tag's key is 1 to 128 characters and does not begin with aws:".into())
            }
            Some(tag) if tag.value.chars().count() > 256 => {
                Err("databases: the tag's value is at most 256 characters".into())
            }
            _ => Ok(()),
        }
    }
}

fn check_keeping(of: &str, keeping: Keeping) -> Result<(), String> {
    let Retention { hourly, daily, weekly, monthly } = keeping.retention;
    if [hourly, daily, weekly, monthly].iter().any(|tier| *tier > MAX_TIER) {
        return Err(format!("{of}a tier of retention is at most {MAX_TIER}"));
    }
    if !(1..=100).contains(&keeping.floor) {
        return Err(format!("{of}floor is 1 to 100: the newest good snapshot is never deleted"));
    }
    Ok(())
}

/// A copy encrypted with a key of another region than its own cannot be made.
fn check_key(key: &str, region: &str) -> Result<(), String> {
    let parts: Vec<&str> = key.split(':').collect();
    let is_arn = matches!(parts[..], ["arn", _, "kms", of, _, _] if of == region);
    if is_arn || key.strip_prefix("alias/").is_some_and(|name| !name.is_empty()) {
        return Ok(());
    }
    Err(format!("target {region}: kms_key_id must be the ARN of a key of {region}, or alias/... in it"))
}

/// What RDS takes for an identifier: lower-case letters, digits and hyphens, a letter first,
/// no two hyphens in a row and none at the end.
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
                { "region": "us-gov-west-1", "kms_key_id": "alias/drops", "retention": { "daily": 3 }, "floor": 1 }
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
        assert_eq!(policy.limits, Limits { creates: 5, copies: 20, deletes: 50 });
        assert_eq!(policy.keeping_in(&policy.targets[0]), policy.keeping());
        let other = policy.keeping_in(&policy.targets[1]);
        assert_eq!((other.retention.daily, other.retention.hourly, other.floor), (3, 0, 1));
        let short = read(|policy| *policy = json!({ "databases": { "ids": ["b"] }, "retention": {} }));
        let short = short.unwrap();
        assert_eq!((short.interval_minutes, short.floor, short.targets.len()), (60, 2, 0));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
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
            ("/targets", json!([{ "region": "Europe" }]), "no region's code"),
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
    fn a_prefix_is_what_rds_takes() {
        for wrong in ["rds:x", "a--b", "a-", "1a", "A", &"a".repeat(41)] {
            let error = prefix(&|_: &str| Some(wrong.to_owned())).unwrap_err().to_string();
            assert!(error.contains(PREFIX_VARIABLE), "{error}");
        }
        assert_eq!(prefix(&|_: &str| Some("drops-eu".to_owned())), Ok("drops-eu".into()));
    }
}

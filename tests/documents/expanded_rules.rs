//! Rules for the templates as CloudFormation expands them, in every deployment of samconfig.toml: limits of AWS that
//! only show when a stack is created or changed.

use std::collections::BTreeMap;
use tests::expanded::{conditions, deployments, store_deployments};

/// A condition that is never evaluated both ways hides its resources, or its absence, from the rules below.
#[test]
fn every_condition_is_expanded_both_ways() {
    let mut seen: BTreeMap<String, [bool; 2]> = BTreeMap::new();
    for one in deployments().unwrap() {
        for (name, holds) in conditions("template", &one).unwrap() {
            seen.entry(name).or_default()[usize::from(holds)] = true;
        }
    }
    for one in store_deployments() {
        for (name, holds) in conditions("stores", &one).unwrap() {
            seen.entry(format!("stores: {name}")).or_default()[usize::from(holds)] = true;
        }
    }
    seen.retain(|_, both| *both != [true, true]);
    assert_eq!(seen, BTreeMap::new());
}

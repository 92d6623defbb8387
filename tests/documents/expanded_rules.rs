//! Rules for the templates as CloudFormation expands them, in every deployment of samconfig.toml: limits of AWS that
//! only show when a stack is created or changed. docs/AWS_FACTS.md has their sources.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tests::expanded::{Resources, conditions, deployments, expand, store_deployments, translated};

/// Every deployment of both templates by name, expanded.
fn expanded() -> Vec<(String, Resources)> {
    let functions = deployments().unwrap().into_iter().map(|one| ("template", one));
    let stores = store_deployments().into_iter().map(|one| ("stores", one));
    functions
        .chain(stores)
        .map(|(template, one)| (one.name.clone(), expand(template, &one).unwrap()))
        .collect()
}

/// The resources of `templates` by name: each with its type and properties, before CloudFormation evaluates functions.
fn declared() -> Vec<(String, &'static Value)> {
    let resources = ["template", "stores"].map(|one| translated()[one]["Resources"].as_object().unwrap());
    resources.into_iter().flatten().map(|(name, resource)| (name.clone(), resource)).collect()
}

/// Whether a value depends on a parameter, so that a deployment may change it.
fn depends_on_a_parameter(value: &Value) -> bool {
    let text = value.to_string();
    let parameters = ["template", "stores"].map(|one| translated()[one]["Parameters"].as_object().unwrap());
    let mut names = parameters.into_iter().flat_map(|all| all.keys());
    names.any(|name| {
        text.contains(&format!(r#"{{"Ref":"{name}"}}"#)) || text.contains(&format!("${{{name}}}"))
    }) || text.contains("Fn::If")
}

/// A condition that is never evaluated both ways hides its resources, or their absence, from the rules below.
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

/// Properties that cannot be changed after a resource was created, of a named resource, that may stand on a parameter,
/// and why.
const NEVER_CHANGED: [(&str, &str, &str); 0] = [];

/// CloudFormation replaces a resource if a create-only property changes, and creates the new one first: a custom name is
/// still taken then, and the update fails.
#[test]
fn a_named_resource_has_no_create_only_property_that_a_parameter_changes() {
    let mut checked = 0;
    for (name, resource) in declared() {
        let kind = resource["Type"].as_str().unwrap();
        let create_only: Vec<&str> = translated()["create_only"][kind]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|path| path.as_str()?.strip_prefix("/properties/"))
            .collect();
        let is_name = |property: &&str| property.ends_with("Name") || property.ends_with("Identifier");
        let own = format!("{}Name", kind.rsplit(':').next().unwrap());
        let named = ["Name", own.as_str()];
        if !named.iter().any(|name| create_only.contains(name) && resource["Properties"].get(name).is_some())
        {
            continue;
        }
        checked += 1;
        for property in create_only.iter().filter(|property| !is_name(property)) {
            let Some(value) = resource["Properties"].get(property) else { continue };
            let is_known = NEVER_CHANGED.iter().any(|(of, one, _)| *of == name && one == property);
            assert!(
                is_known || !depends_on_a_parameter(value),
                "{name} has a name of its own, and {property} cannot be changed in place: {value}"
            );
        }
    }
    assert!(checked >= 15, "{checked}");
}

/// Types whose resources hold what no deployment can create again.
const HOLD_STATE: [&str; 7] = [
    "AWS::DynamoDB::GlobalTable",
    "AWS::DynamoDB::Table",
    "AWS::ElastiCache::GlobalReplicationGroup",
    "AWS::ElastiCache::ReplicationGroup",
    "AWS::RDS::DBInstance",
    "AWS::SQS::Queue",
    "AWS::SecretsManager::Secret",
];
/// Resources of these types whose content may be deleted.
const EXPENDABLE: [&str; 1] = ["StateTable"];
/// Types of which the author of this test knows that they hold no state; logs end by their retention.
const HOLD_NO_STATE: [&str; 10] = [
    "AWS::ApiGatewayV2::",
    "AWS::CloudWatch::",
    "AWS::EC2::",
    "AWS::ElastiCache::SubnetGroup",
    "AWS::IAM::",
    "AWS::Lambda::",
    "AWS::Logs::LogGroup",
    "AWS::RDS::DBParameterGroup",
    "AWS::RDS::DBSubnetGroup",
    "AWS::Scheduler::Schedule",
];

/// By default CloudFormation deletes a resource with its stack, and the old one of a replacement.
#[test]
fn what_holds_state_outlives_its_stack() {
    let mut checked = BTreeSet::new();
    for (name, resource) in declared() {
        let kind = resource["Type"].as_str().unwrap();
        if !HOLD_STATE.contains(&kind) {
            assert!(HOLD_NO_STATE.iter().any(|known| kind.starts_with(known)), "does {kind} hold state?");
            continue;
        }
        for policy in ["DeletionPolicy", "UpdateReplacePolicy"] {
            let allowed: &[&str] =
                if EXPENDABLE.contains(&name.as_str()) { &["Delete"] } else { &["Retain", "Snapshot"] };
            let chosen = resource[policy].as_str().unwrap_or_default();
            assert!(allowed.contains(&chosen), "{name}: {policy} is {chosen:?}");
        }
        checked.insert(kind);
    }
    assert_eq!(checked, BTreeSet::from(HOLD_STATE));
}

/// AWS withdraws minor versions of engines: a stack that names one cannot be created any more.
#[test]
fn no_engine_is_pinned_to_a_minor_version() {
    let mut checked = 0;
    for (name, resource) in declared() {
        let Some(version) = resource["Properties"].get("EngineVersion") else { continue };
        checked += 1;
        let is_major = version.as_str().is_some_and(|text| text.chars().all(|one| one.is_ascii_digit()));
        assert!(is_major || depends_on_a_parameter(version), "{name}: {version}");
        // RDS then chooses the minor version, and must upgrade it.
        let upgrades = &resource["Properties"]["AutoMinorVersionUpgrade"];
        assert!(!is_major || *upgrades == true, "{name}: AutoMinorVersionUpgrade is {upgrades}");
    }
    assert!(checked >= 3, "{checked}");
}

/// Settings that a standby must have at least as high as main, or it stops replaying
/// (PostgreSQL's documentation, "Hot Standby", section "Administrator's Overview").
const AT_LEAST_AS_ON_MAIN: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

#[test]
fn the_settings_that_a_standby_must_share_are_fixed_in_one_parameter_group() {
    let mut found = BTreeMap::new();
    for (name, resources) in expanded() {
        let Some(group) = resources.get("LedgerSettings") else { continue };
        for setting in AT_LEAST_AS_ON_MAIN {
            let value = group["Properties"]["Parameters"][setting].as_str().unwrap_or_default();
            assert!(value.parse::<u32>().is_ok(), "{name}: {setting} is {value:?}");
            assert_eq!(found.entry(setting).or_insert(value.to_owned()), value, "{name}: {setting}");
        }
        let instances = resources.values().filter(|one| one["Type"] == "AWS::RDS::DBInstance");
        let mut instances = instances.map(|one| &one["Properties"]["DBParameterGroupName"]).peekable();
        assert!(instances.peek().is_some(), "{name}");
        assert!(instances.all(|of| of.as_str().unwrap().contains("LedgerSettings")), "{name}");
    }
    assert_eq!(found.len(), AT_LEAST_AS_ON_MAIN.len());
}

/// With keys of its own, an order log has the first one, and each role that may use a log may use the keys.
#[test]
fn an_order_log_has_the_key_that_its_functions_may_use() {
    let mut with_key = 0;
    for deployment in deployments().unwrap() {
        let keys: Vec<&str> =
            deployment.parameters.get("OrderLogKeyArns").map_or("", String::as_str).split(',').collect();
        let has_keys = keys != [""];
        let resources = expand("template", &deployment).unwrap();
        if let Some(table) = resources.get("OrderLogTable") {
            let encryption = &table["Properties"]["SSESpecification"];
            let expected = json!({ "SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": keys[0] });
            assert_eq!(*encryption, if has_keys { expected } else { Value::Null }, "{}", deployment.name);
            with_key += usize::from(has_keys);
        }
        let policy = resources.get("OrderLogKeysPolicy");
        assert_eq!(policy.is_some(), has_keys, "{}", deployment.name);
        let statement = policy.map(|policy| &policy["Properties"]["PolicyDocument"]["Statement"][0]);
        assert!(statement.is_none_or(|one| one["Resource"] == json!(keys)), "{statement:?}");
        for (name, role) in resources.iter().filter(|(_, one)| one["Type"] == "AWS::IAM::Role") {
            let uses_a_log = role.to_string().contains("OrderLogTable");
            let managed = role["Properties"]["ManagedPolicyArns"].as_array().map_or(0, Vec::len);
            let expected = 1 + usize::from(uses_a_log && has_keys);
            assert!(!uses_a_log || managed == expected, "{}: {name} has {managed} policies", deployment.name);
        }
    }
    assert!(with_key >= 3, "{with_key}");
}

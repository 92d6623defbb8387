//! The deployments whose expanded templates are tested: those of samconfig.toml, and the roles of stores.yaml.

use super::{text_of, translated};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// One deployment of a template: where, under which name, and with which parameters.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Names it in a test's output.
    pub name: String,
    pub region: String,
    pub stack: String,
    /// Parameters that differ from their defaults.
    pub parameters: BTreeMap<String, String>,
}

impl Deployment {
    /// The same with other values of parameters.
    pub fn with(&self, name: &str, parameters: &[(&str, &str)]) -> Self {
        let mut other = self.clone();
        other.name = format!("{}, {name}", self.name);
        other
            .parameters
            .extend(parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        other
    }
}

/// A valid value for each parameter that samconfig.toml leaves to the operator.
const VALID: [(&str, &str); 20] = [
    ("MainRedisEndpoint", "master.fairdrop.abc123.use1.cache.amazonaws.com"),
    ("ReplicaRedisEndpoint", "replica.fairdrop.abc123.usw2.cache.amazonaws.com"),
    ("LedgerEndpoint", "ledger.abc123.us-east-1.rds.amazonaws.com"),
    ("LedgerResourceId", "db-ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    ("LedgerCaLayer", "arn:aws:lambda:us-east-1:111122223333:layer:rds-ca:1"),
    ("MainInstance", "ledger"),
    ("LeaseTable", "fairdrop-stores-lease"),
    ("ReplicaInstance", "ledger-replica"),
    ("ReplicaEndpoint", "ledger-replica.abc123.us-west-2.rds.amazonaws.com"),
    ("ReplicaResourceId", "db-ZYXWVUTSRQPONMLKJIHGFEDCBA"),
    ("SnapshotKeyArns", "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
    ("RedisDatastore", "ldgnf-fairdrop"),
    ("RedisGroup", "fairdrop-redis"),
    ("StandbyRedisEndpoint", "master.standby.abc123.usw2.cache.amazonaws.com"),
    ("FenceSecurityGroup", "sg-0123456789abcdef0"),
    ("SubnetIds", "subnet-0123456789abcdef0,subnet-0123456789abcdef1"),
    ("SecurityGroupIds", "sg-0123456789abcdef1"),
    ("TokenJwks", r#"{"keys":[]}"#),
    ("TokenIssuer", "https://issuer.example"),
    ("TokenAudience", "shop"),
];

/// Every option of every region's role. Rules of the template exclude some from each other.
pub const OPTIONS: [(&str, &str); 22] = [
    ("LiveRedisEndpoint", "live.abc123.use1.cache.amazonaws.com"),
    ("SnapshotPolicy", r#"{"databases":{"ids":["ledger"]},"retention":{"hourly":24}}"#),
    (
        "SnapshotKeyArns",
        "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab,\
         arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ),
    ("RedisCaLayer", "arn:aws:lambda:us-east-1:111122223333:layer:redis-ca:1"),
    ("DrillDatabase", "ledger"),
    ("DrillSubnetGroup", "fairdrop"),
    ("DrillSecurityGroups", "sg-0123456789abcdef2"),
    ("ReplicaRedisEndpoint", "replica.fairdrop.abc123.use1.cache.amazonaws.com"),
    ("EncryptionKeyArn", "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
    ("AlarmTopicArn", "arn:aws:sns:us-east-1:111122223333:alarms"),
    ("OperatorRoleArn", "arn:aws:iam::111122223333:role/operators"),
    ("ShopRoleArn", "arn:aws:iam::111122223333:role/shop"),
    ("ShopEventsBus", "shop"),
    ("JwtAuthorizer", "true"),
    ("TokenKeysFrom", "discovery"),
    ("CorsOrigins", "https://shop.example.com"),
    ("OrderLog", "true"),
    (
        "OrderLogKeyArns",
        "arn:aws:kms:us-east-1:111122223333:key/2345abcd-12ab-34cd-56ef-1234567890ab,\
         arn:aws:kms:us-west-2:111122223333:key/2345abcd-12ab-34cd-56ef-1234567890ab",
    ),
    (
        "OrderLogs",
        "us-east-1=fairdrop-OrderLogTable-ABCDEFGHIJKL,us-west-2=fairdrop-OrderLogTable-MNOPQRSTUVWX",
    ),
    ("WaitReplicas", "1"),
    ("FailoverClass", "db.r7g.large"),
    ("Architecture", "arm64"),
];

/// Deployments of template.yaml: each environment of samconfig.toml as it is, with every option, and with provisioned
/// concurrency.
pub fn deployments() -> Result<Vec<Deployment>> {
    let mut found = Vec::new();
    for (name, settings) in translated()["environments"].as_object().context("samconfig.toml is a table")? {
        let global = &settings["global"]["parameters"];
        let Some(overrides) = global["parameter_overrides"].as_object() else { continue };
        let mut parameters = BTreeMap::new();
        for (key, value) in overrides {
            let mut text = text_of(value)?;
            if text.contains("REPLACE") {
                let valid = VALID.iter().find(|(of, _)| of == key);
                valid.with_context(|| format!("no valid value of {key} in VALID"))?.1.clone_into(&mut text);
            }
            parameters.insert(key.clone(), text);
        }
        let text = |key: &str| global[key].as_str().map(str::to_owned).context("samconfig.toml lacks a text");
        let plain = Deployment {
            name: name.clone(),
            region: text("region")?,
            stack: text("stack_name")?,
            parameters,
        };
        found.push(plain.with("every option", &OPTIONS));
        let provisioned = [("IntakeProvisionedConcurrency", "10"), ("ReserveConcurrency", "false")];
        found.push(plain.with("provisioned", &provisioned));
        found.push(plain);
    }
    ensure!(found.len() >= 12, "{} deployments", found.len());
    Ok(found)
}

/// Deployments of stores.yaml: each role, with and without what is optional.
pub fn store_deployments() -> Vec<Deployment> {
    let one = |role: &str, region: &str, more: &[(&str, &str)]| {
        let plain = Deployment {
            name: format!("stores of {role}"),
            region: region.into(),
            stack: "fairdrop-stores".into(),
            parameters: BTreeMap::from([
                ("Role".into(), role.into()),
                ("VpcCidr".into(), "10.20.0.0/16".into()),
            ]),
        };
        plain.with(if more.is_empty() { "alone" } else { "every option" }, more)
    };
    let key = ("KmsKeyArn", "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab");
    let of_main = [
        key,
        ("GlobalDatastore", "fairdrop"),
        ("GlobalRedisNodeType", "cache.r7g.xlarge"),
        ("GlobalRedisEngineVersion", "8.1"),
        ("StandbyRegion", "us-west-2"),
        ("LeaseWitnessRegion", "us-east-2"),
    ];
    let of_standby = [
        key,
        ("GlobalDatastore", "ldgnf-fairdrop"),
        ("SourceLedgerArn", "arn:aws:rds:us-east-1:111122223333:db:ledger"),
    ];
    vec![
        one("main", "us-east-1", &[]),
        one("main", "us-east-1", &of_main),
        one("standby", "us-west-2", &of_standby),
        one("edge", "eu-west-1", &[("WithNat", "false")]),
    ]
}

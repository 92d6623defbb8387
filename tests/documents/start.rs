//! A function with a missing or invalid environment variable exits at its start and names the variable. The test
//! starts the built functions as Lambda does, with the variables of the template.

use local::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use local::system::folder::WorkFolder;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::parameters::WRONG;
use tests::template;

/// What refuses an invalid value.
enum Refused {
    /// The function refuses these values and others.
    AtStart(&'static [&'static str]),
    /// The template refuses it, by the rule of this parameter.
    AtDeployment(&'static str),
    /// No operator sets it: the template derives it from AWS's values.
    Derived,
}
use Refused::{AtDeployment, AtStart, Derived};

/// A variable, a valid value, and what refuses others. A variable with a leading `!` is required.
type Variable = (&'static str, &'static str, Refused);

const REDIS: &[&str] = &["http://host:6379", "host:6379"];
const MILLISECONDS: &[&str] = &["9", "10001", "1s", "1.5"];
const LEDGER: &[&str] = &[
    "mysql://u@db.example/x",
    "postgres://u@:5432/x?sslmode=verify-full",
    "postgres://u@db.example/x?sslmode=require",
];
const RUN: &[&str] = &["0", "891", "a minute"];

/// The variables of all functions; `{jwks}` stands for valid keys.
const VARIABLES: &[Variable] = &[
    ("FAIRDROP_REGION", "us-east-1", Derived),
    ("FAIRDROP_LOG_LEVEL", "INFO", AtStart(&["FATAL", "OFF", "3"])),
    ("!FAIRDROP_MAIN_REDIS_URL", "redis://127.0.0.1:1", AtStart(REDIS)),
    ("FAIRDROP_REPLICA_REDIS_URL", "redis://127.0.0.1:1", AtStart(REDIS)),
    ("!FAIRDROP_LIVE_REDIS_URL", "redis://127.0.0.1:1", AtStart(REDIS)),
    (
        "!FAIRDROP_LIVE_ENDPOINT",
        "https://api.example/live",
        AtStart(&["http://api.example/live", "api.example/live"]),
    ),
    ("FAIRDROP_LIVE_SENDS_PER_SECOND", "5000", AtStart(&["0", "100001"])),
    ("FAIRDROP_PUBLISH_RUN_SECONDS", "190", AtStart(RUN)),
    ("FAIRDROP_REDIS_CA_FILE", "", AtStart(&["/nowhere/redis-ca.pem", "/dev/null"])),
    ("FAIRDROP_REDIS_CONNECT_TIMEOUT_MS", "3000", AtStart(MILLISECONDS)),
    ("FAIRDROP_REDIS_RESPONSE_TIMEOUT_MS", "800", AtStart(MILLISECONDS)),
    (
        "FAIRDROP_TOKEN_JWKS",
        "{jwks}",
        AtStart(&["keys", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct"}]}"#]),
    ),
    ("FAIRDROP_TOKEN_KEYS_FROM", "discovery", AtStart(&["http://id.example/keys", "id.example", "https://"])),
    ("!FAIRDROP_TOKEN_KEYS_STORE", "fairdrop-token-keys-store", Derived),
    ("FAIRDROP_TOKEN_KEYS_RUN_SECONDS", "75", AtStart(RUN)),
    ("FAIRDROP_TOKEN_KEYS_INTERVAL_MS", "15000", AtStart(&["49", "60001", "15s"])),
    ("!FAIRDROP_TOKEN_ISSUER", ISSUER, AtDeployment("TokenIssuer")),
    ("!FAIRDROP_TOKEN_AUDIENCE", AUDIENCE, AtStart(&["a,", "a, b"])),
    // The keys of this test are no RSA keys.
    ("FAIRDROP_JWT_AUTHORIZER", "false", AtStart(&["true", "yes"])),
    ("FAIRDROP_ORDER_LOG_TABLE", "order-log", Derived),
    ("FAIRDROP_ORDER_LOGS", "us-east-1=order-log", AtDeployment("OrderLogs")),
    ("FAIRDROP_BACKUPS_KEPT_DAYS", "0", AtStart(&["-1", "36501"])),
    ("FAIRDROP_LEASE_TABLE", "lease", AtDeployment("LeaseTable")),
    ("FAIRDROP_LEASE_SECONDS", "12", AtStart(&["3", "121", "12s"])),
    ("FAIRDROP_LEASE_TOLERANCE_MS", "1000", AtStart(&["49", "1501", "1s"])),
    ("!FAIRDROP_LEDGER_URL", "postgres://u@127.0.0.1:1/x", AtStart(LEDGER)),
    ("FAIRDROP_LEDGER_AUTH", "iam", AtStart(&["kerberos"])),
    ("FAIRDROP_LEDGER_CA_FILE", "", AtStart(&["/nowhere/rds-ca.pem", "/dev/null"])),
    ("FAIRDROP_LEDGER_CONNECTIONS", "4", AtStart(&["0", "21"])),
    ("FAIRDROP_DRAIN_RUN_SECONDS", "190", AtStart(RUN)),
    ("FAIRDROP_WORKER_RUN_SECONDS", "190", AtStart(RUN)),
    ("!FAIRDROP_EVENT_BUS", "shop", AtDeployment("ShopEventsBus")),
    ("FAIRDROP_EVENTS_RUN_SECONDS", "190", AtStart(RUN)),
    ("FAIRDROP_WAIT_REPLICAS", "0", AtStart(&["-1", "6"])),
    ("FAIRDROP_HOLD_GRACE_SECONDS", "600", AtStart(&["-1", "3601"])),
    ("FAIRDROP_TASK_IDLE_AFTER_MS", "12000", AtStart(&["99", "600001"])),
    ("!FAIRDROP_SNAPSHOT_PREFIX", "fairdrop", AtDeployment("SnapshotPrefix")),
    (
        "!FAIRDROP_SNAPSHOT_POLICY",
        r#"{"databases":{"ids":["ledger"]},"retention":{"hourly":24}}"#,
        AtStart(&["ledger", "{}", r#"{"databases":{},"retention":{"hourly":24}}"#]),
    ),
    ("!FAIRDROP_DRILL_DATABASE", "ledger", AtDeployment("DrillDatabase")),
    ("FAIRDROP_DRILL_INSTANCE_CLASS", "db.t4g.medium", AtDeployment("DrillInstanceClass")),
    ("FAIRDROP_DRILL_SUBNET_GROUP", "", AtDeployment("DrillSubnetGroup")),
    ("FAIRDROP_DRILL_SECURITY_GROUPS", "", AtDeployment("DrillSecurityGroups")),
    ("FAIRDROP_DRILL_POLL_SECONDS", "10", AtStart(&["0", "61"])),
    ("!FAIRDROP_REPLICA_URL", "postgres://u@127.0.0.1:1/x", AtStart(LEDGER)),
    ("!FAIRDROP_REPLICA_INSTANCE", "replica", AtDeployment("ReplicaInstance")),
    ("!FAIRDROP_MAIN_INSTANCE", "ledger", AtDeployment("MainInstance")),
    ("!FAIRDROP_MAIN_REGION", "us-east-1", AtDeployment("MainRegion")),
    ("FAIRDROP_REDIS_GROUP", "redis", AtDeployment("RedisGroup")),
    ("!FAIRDROP_REDIS_DATASTORE", "datastore", AtDeployment("RedisDatastore")),
    ("!FAIRDROP_STANDBY_REDIS_URL", "redis://127.0.0.1:1", AtStart(REDIS)),
    ("!FAIRDROP_REGIONS", "us-east-1,eu-west-1", AtStart(&["ap-southeast-1"])),
    ("FAIRDROP_STACK", "fairdrop", Derived),
    (
        "FAIRDROP_MAIN_CONCURRENCY",
        "checkout-drain=6",
        AtStart(&["checkout-drain", "order-intake=6", "drop-admin=0"]),
    ),
    ("FAIRDROP_DRILL_USER", "drill", AtDeployment("FailoverDrillUser")),
    ("!FAIRDROP_DRAIN_SCHEDULE", "drain", Derived),
    ("!FAIRDROP_WORKER_SCHEDULE", "worker", Derived),
    ("FAIRDROP_FAILOVER_CLASS", "", AtStart(&["db.made.up"])),
    ("FAIRDROP_FENCE_GROUP", "", AtDeployment("FenceSecurityGroup")),
    ("FAIRDROP_OBSERVE_INTERVAL_MS", "2000", AtStart(&["49", "10001"])),
    ("!FAIRDROP_STATE_TABLE", "state", Derived),
    ("FAIRDROP_NOTICE_TOPIC_ARN", "", AtDeployment("AlarmTopicArn")),
    ("!FAIRDROP_ALARM_ARN_PREFIX", "arn:aws:cloudwatch:", Derived),
    ("FAIRDROP_LAG_LIMIT_SECONDS", "10", AtStart(&["3", "601"])),
    ("FAIRDROP_REPEAT_MINUTES", "15", AtStart(&["14", "1441"])),
    ("FAIRDROP_SAMPLE_SECONDS", "10", AtStart(&["0", "61"])),
    ("FAIRDROP_LAG_RUN_SECONDS", "55", AtStart(&["0", "61"])),
    ("FAIRDROP_RUNBOOK_URL", "docs/runbook", AtDeployment("RunbookUrl")),
];

/// The template sets the Redis variables for every function; these functions use no Redis.
const WITHOUT_REDIS: [&str; 5] =
    ["snapshot-copy", "restore-drill", "replica-lag", "token-keys", "shop-events"];
/// Variables that the template does not set: a function that has the first one also reads the second.
const ALSO_READ: [(&str, &str); 7] = [
    ("FAIRDROP_DRAIN_SCHEDULE", "FAIRDROP_OBSERVE_INTERVAL_MS"),
    ("FAIRDROP_WORKER_RUN_SECONDS", "FAIRDROP_TASK_IDLE_AFTER_MS"),
    ("FAIRDROP_LEDGER_URL", "FAIRDROP_LEDGER_CONNECTIONS"),
    ("FAIRDROP_TOKEN_KEYS_RUN_SECONDS", "FAIRDROP_TOKEN_KEYS_INTERVAL_MS"),
    ("FAIRDROP_DRILL_DATABASE", "FAIRDROP_DRILL_POLL_SECONDS"),
    ("FAIRDROP_STATE_TABLE", "FAIRDROP_SAMPLE_SECONDS"),
    ("FAIRDROP_STATE_TABLE", "FAIRDROP_LAG_RUN_SECONDS"),
];
/// Variables that one function requires and others do not.
const ALSO_REQUIRED: [(&str, &str); 5] = [
    ("order-place", "FAIRDROP_ORDER_LOG_TABLE"),
    ("token-keys", "FAIRDROP_TOKEN_KEYS_FROM"),
    ("region-failover", "FAIRDROP_REDIS_GROUP"),
    ("region-failover", "FAIRDROP_LEASE_TABLE"),
    ("region-failover", "FAIRDROP_STACK"),
];
/// A function must have started or exited by then.
const LIMIT: Duration = Duration::from_secs(20);

/// The variables that each function reads.
pub(crate) fn read_by(template: &str) -> BTreeMap<String, BTreeSet<String>> {
    let globals =
        template.split("\nGlobals:\n").nth(1).and_then(|rest| rest.split("\nResources:\n").next()).unwrap();
    let mut found = BTreeMap::new();
    for text in
        template::resources(template).values().filter(|text| text.contains("AWS::Serverless::Function"))
    {
        let function =
            text.split("CodeUri: functions/").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        let mut names: BTreeSet<String> = template::variables(text).into_iter().map(str::to_owned).collect();
        let global = template::variables(globals).into_iter();
        names.extend(
            global
                .filter(|name| !name.contains("REDIS") || !WITHOUT_REDIS.contains(&function))
                .map(str::to_owned),
        );
        for (set, name) in ALSO_READ {
            if names.contains(set) {
                names.insert(name.to_owned());
            }
        }
        found.insert(function.to_owned(), names);
    }
    found
}

/// Starts a function; its output goes to `log`.
pub(crate) fn start(
    function: &str,
    variables: &BTreeMap<String, String>,
    runtime_api: &str,
    log: &Path,
) -> Child {
    let out = std::fs::File::create(log).unwrap();
    Command::new(local::system::process::binaries().unwrap().join(function))
        .env_clear()
        .envs(variables)
        .envs([
            ("AWS_LAMBDA_RUNTIME_API", runtime_api),
            ("AWS_LAMBDA_FUNCTION_NAME", function),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "log"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "log"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ])
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap()
}

/// Whether the function asks for its first event before it ends.
fn starts(function: &str, variables: &BTreeMap<String, String>, folder: &Path) -> Result<(), String> {
    let api = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    api.set_nonblocking(true).unwrap();
    let log = folder.join(format!("{function}.log"));
    let mut child = start(function, variables, &api.local_addr().unwrap().to_string(), &log);
    let asked_or_ended = first_request(&mut child, &api, &log);
    // It may have exited already.
    let _ = child.kill();
    child.wait().unwrap();
    asked_or_ended.unwrap_or_else(|| panic!("{function} neither starts nor exits"))
}

/// Its first request for an event; or the log of a function that has exited; or `None` if it does neither.
fn first_request(child: &mut Child, api: &TcpListener, log: &Path) -> Option<Result<(), String>> {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Ok((connection, _)) = api.accept() {
            connection.set_nonblocking(false).unwrap();
            let mut line = String::new();
            BufReader::new(connection).read_line(&mut line).unwrap();
            return Some(if line.contains("/invocation/next") { Ok(()) } else { Err(line) });
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(!status.success(), "the function exited with code 0");
            return Some(Err(std::fs::read_to_string(log).unwrap()));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    None
}

/// Valid values of a function's variables. No store is reachable with them.
pub(crate) fn valid_variables(
    function: &str,
    names: &BTreeSet<String>,
    jwks: &str,
) -> BTreeMap<String, String> {
    let of = |name: &String| VARIABLES.iter().find(|(known, ..)| known.trim_start_matches('!') == name);
    let mut valid: BTreeMap<String, String> =
        names.iter().filter_map(|name| Some((name.clone(), of(name)?.1.replace("{jwks}", jwks)))).collect();
    if function == "restore-drill" {
        let url = "postgres://u@{host}:{port}/x?sslmode=verify-full";
        valid.insert("FAIRDROP_LEDGER_URL".into(), url.into());
    }
    valid
}

#[test]
fn a_function_with_an_invalid_variable_exits_and_names_it() {
    let folder = WorkFolder::new().unwrap();
    let jwks = IdentityProvider::new().unwrap().jwks().to_string();
    let mut tried = 0;
    for (function, names) in read_by(&template::read().unwrap()) {
        let rows: Vec<(&str, &Variable)> = names
            .iter()
            .map(|name| {
                let row = VARIABLES.iter().find(|(known, _, _)| known.trim_start_matches('!') == name);
                (
                    name.as_str(),
                    row.unwrap_or_else(|| panic!("{function} reads {name}, which is not in the table")),
                )
            })
            .collect();
        let right = valid_variables(&function, &names, &jwks);
        starts(&function, &right, folder.path())
            .unwrap_or_else(|output| panic!("{function} does not start: {output}"));
        let refuses = |name: &str, wrong: &str| {
            let mut variables = right.clone();
            variables.insert(name.to_owned(), wrong.to_owned());
            let output = starts(&function, &variables, folder.path())
                .expect_err(&format!("{function} starts with {name} = {wrong:?}"));
            assert!(output.contains(name), "{function}, {name} = {wrong:?}: {output}");
            let may_be_secret = wrong.len() > 4 && (name.contains("URL") || name.contains("JWKS"));
            assert!(
                !may_be_secret || !output.contains(wrong),
                "{function} repeats what may be a secret: {output}"
            );
        };
        for (name, (marked, _, refused)) in &rows {
            let wrong: &[&str] = match refused {
                AtStart(wrong) => wrong,
                AtDeployment(parameter) => {
                    assert!(
                        WRONG.iter().any(|(of, _)| of == parameter),
                        "{parameter} is not in tests/support/parameters.rs"
                    );
                    &[]
                }
                Derived => &[],
            };
            let is_needed = marked.starts_with('!') || ALSO_REQUIRED.contains(&(function.as_str(), name));
            let missing: &[&str] = if is_needed { &[""] } else { &[] };
            for wrong in wrong.iter().chain(missing) {
                refuses(name, wrong);
                tried += 1;
            }
        }
    }
    println!("{tried} wrong starts");
    assert!(tried > 100, "{tried}");
}

/// Lambda's INIT phase lasts 10 s at most. No function waits in it for an answer from a server: all connections are
/// accepted here, and nothing is ever answered.
#[test]
fn no_function_waits_for_an_answer_before_it_asks_for_its_first_event() {
    // The system accepts connections for a socket that only listens.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let folder = WorkFolder::new().unwrap();
    let jwks = IdentityProvider::new().unwrap().jwks().to_string();
    let mut silenced = 0;
    for (function, names) in read_by(&template::read().unwrap()) {
        let mut variables = valid_variables(&function, &names, &jwks);
        for value in variables.values_mut().filter(|value| value.contains("127.0.0.1:1")) {
            *value = value.replace("127.0.0.1:1", &address);
            silenced += 1;
        }
        variables.insert("AWS_ENDPOINT_URL".into(), format!("http://{address}"));
        starts(&function, &variables, folder.path())
            .unwrap_or_else(|output| panic!("{function} does not start: {output}"));
    }
    assert!(silenced > 20, "{silenced}");
}

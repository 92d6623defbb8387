//! The built function with two PostgreSQL servers in replication and emulators of AWS. A proxy in front of RDS can
//! return other answers.

use crate::replica_lag::blocking_proxy::{self, Blocked};
use crate::replica_lag::pair::ReplicaPair;
use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use local::aws::emulators::{Ministack, Moto, elements};
use local::aws::functions::{FunctionProcess, Launch};
use local::aws::lambda::{Emulator, Invoked};
use local::system::folder::WorkFolder;
use local::system::wan::WanConnection;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const HERE: &str = "eu-west-1";
const MAIN: &str = "us-east-1";
const FUNCTION: &str = "replica-lag";
const ACCOUNT: &str = "123456789012";

/// What the proxy in front of RDS returns instead of moto's answer.
#[derive(Clone, Debug)]
pub(crate) enum RdsFault {
    /// Moto's own answer.
    Nothing,
    Throttling,
    /// No answer for this time.
    Silence(Duration),
    /// Moto's answer with the first text replaced by the second.
    Replaced(&'static str, &'static str),
}

pub(crate) struct ReplicaStand {
    pub(crate) pair: ReplicaPair,
    pub(crate) moto: Arc<Moto>,
    pub(crate) ministack: Ministack,
    /// From the function to main's ledger.
    pub(crate) main_connection: WanConnection,
    /// From the function to its table.
    pub(crate) table_connection: WanConnection,
    /// From the function to the topic.
    pub(crate) topic_connection: WanConnection,
    /// The operation that CloudWatch does not answer.
    pub(crate) silent_in_cloudwatch: Blocked,
    /// The operation that DynamoDB denies.
    pub(crate) denied_in_dynamodb: Blocked,
    rds: Arc<Mutex<RdsFault>>,
    emulator: Emulator,
    _function: FunctionProcess,
    _folder: WorkFolder,
}

impl ReplicaStand {
    /// Main sells `sales` units a second.
    pub(crate) async fn start(sales: u32) -> Result<Self> {
        Self::start_with(sales, 1, &[]).await
    }

    /// The same, with `processes` processes of the function and additional configuration.
    pub(crate) async fn start_with(sales: u32, processes: u32, with: &[(&str, &str)]) -> Result<Self> {
        let folder = WorkFolder::new()?;
        let (pair, moto, ministack) = tokio::try_join!(
            ReplicaPair::start(sales),
            Moto::start(folder.path(), &[]),
            Ministack::start(folder.path())
        )?;
        let main_at = ([127, 0, 0, 1], pair.main.postgres.port()).into();
        let main_connection = WanConnection::open(main_at, Duration::from_millis(20)).await?;
        let moto = Arc::new(moto);
        prepare(&moto).await?;
        let rds = Arc::new(Mutex::new(RdsFault::Nothing));
        let rds_proxy = proxy_of_rds(moto.clone(), rds.clone()).await?;
        let moto_at = ([127, 0, 0, 1], moto.port()).into();
        let table_connection = WanConnection::open(moto_at, Duration::ZERO).await?;
        let (cloudwatch, silent_in_cloudwatch) = blocking_proxy::start(ministack.url()).await?;
        let table = format!("http://127.0.0.1:{}", table_connection.port());
        let (table, denied_in_dynamodb) = blocking_proxy::start(table).await?;
        let topic_connection = WanConnection::open(moto_at, Duration::ZERO).await?;
        let emulator = Emulator::start().await?;
        let mut environment = Moto::environment_at(&moto.url());
        let settings = [
            ("AWS_ENDPOINT_URL_CLOUDWATCH", cloudwatch),
            ("AWS_ENDPOINT_URL_RDS", rds_proxy),
            ("AWS_ENDPOINT_URL_DYNAMODB", table),
            ("AWS_ENDPOINT_URL_SNS", format!("http://127.0.0.1:{}", topic_connection.port())),
            ("FAIRDROP_LEDGER_URL", pair.main_url(main_connection.port())),
            ("FAIRDROP_REPLICA_URL", pair.replica.url()),
            ("FAIRDROP_REPLICA_INSTANCE", "ledger-standby".into()),
            ("FAIRDROP_MAIN_INSTANCE", "ledger".into()),
            ("FAIRDROP_MAIN_REGION", MAIN.into()),
            ("FAIRDROP_STATE_TABLE", "state".into()),
            ("FAIRDROP_NOTICE_TOPIC_ARN", format!("arn:aws:sns:{HERE}:{ACCOUNT}:notices")),
            ("FAIRDROP_ALARM_ARN_PREFIX", format!("arn:aws:cloudwatch:{HERE}:111122223333:alarm:fairdrop-")),
            ("FAIRDROP_REDIS_GROUP", "fairdrop-standby".into()),
            ("FAIRDROP_LAG_LIMIT_SECONDS", "4".into()),
            // One sample for each run, so that a test gets every one.
            ("FAIRDROP_LAG_RUN_SECONDS", "1".into()),
        ];
        environment.extend(settings.map(|(name, value)| (name.to_owned(), value)));
        environment.extend(with.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let launch = Launch {
            function: FUNCTION,
            region: HERE.into(),
            concurrency: 1,
            processes,
            environment,
            wrapper: Vec::new(),
            binaries: None,
        };
        let function = FunctionProcess::start(launch, &emulator.invoke_api(), folder.path())?;
        Ok(Self {
            pair,
            moto,
            ministack,
            main_connection,
            table_connection,
            topic_connection,
            silent_in_cloudwatch,
            denied_in_dynamodb,
            rds,
            emulator,
            _function: function,
            _folder: folder,
        })
    }

    /// Runs the function.
    pub(crate) async fn run(&self, event: &Value) -> Result<Value> {
        let invoke = self.emulator.invoke_api();

        match invoke.call_within(FUNCTION, event.to_string(), Duration::from_secs(90)).await? {
            Invoked::Answer(report) => Ok(report),
            Invoked::FunctionError(error) => bail!("{error}"),
        }
    }

    /// Runs the function as its schedule does: one sample.
    pub(crate) async fn sample(&self) -> Result<Value> {
        let event = json!({ "detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": "{}" });
        let report = self.run(&event).await?;
        record(&report["sample"])?;
        Ok(report)
    }

    /// Collects a sample every other second until the verdict is `verdict`. Returns the report and how long it took.
    pub(crate) async fn until(&self, verdict: &str, limit: Duration) -> Result<(Value, Duration)> {
        let began = Instant::now();
        let mut verdicts = Vec::new();
        while began.elapsed() < limit {
            let report = self.sample().await?;
            if report["verdict"] == verdict {
                return Ok((report, began.elapsed()));
            }
            verdicts.push(format!("{}/{} {}", report["verdict"], report["cause"], report["lag_seconds"]));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        bail!("not {verdict} within {limit:?}: {verdicts:?}")
    }

    /// The notices that have arrived since the last call: in the topic's queue, or the bus's.
    pub(crate) async fn received(&self, queue: &str) -> Result<Vec<Value>> {
        let url = format!("{}/{ACCOUNT}/{queue}", self.moto.url());
        let mut received = Vec::new();
        loop {
            let asked =
                [("QueueUrl", url.as_str()), ("MaxNumberOfMessages", "10"), ("VisibilityTimeout", "3600")];
            let answer = self.moto.messaging((HERE, "sqs"), "ReceiveMessage", &asked).await?;
            let bodies = elements(&answer, "Body");
            if bodies.is_empty() {
                return Ok(received);
            }
            for body in bodies {
                let body = body
                    .replace("&quot;", "\"")
                    .replace("&lt;", "<")
                    .replace("&gt;", ">")
                    .replace("&amp;", "&");
                received.push(serde_json::from_str(&body).context("no JSON was sent")?);
            }
        }
    }

    /// Replaces the function's saved state.
    pub(crate) async fn save_state(&self, state: &Value) -> Result<()> {
        let item = json!({ "TableName": "state", "Item": {
            "id": { "S": "replica-lag/ledger-standby" },
            "version": { "N": "1000" },
            "content": { "S": state.to_string() },
        } });
        self.moto.json((HERE, "dynamodb"), "DynamoDB_20120810.PutItem", &item).await.map(drop)
    }

    /// The replica's class.
    pub(crate) async fn class(&self) -> Result<String> {
        let id = [("DBInstanceIdentifier", "ledger-standby")];
        let answer = self.moto.rds(HERE, "DescribeDBInstances", &id).await?;
        elements(&answer, "DBInstanceClass").first().map(ToString::to_string).context("there is no class")
    }

    pub(crate) fn set_rds_fault(&self, fault: RdsFault) {
        *self.rds.lock().unwrap() = fault;
    }
}

/// Creates the instances, the table of the state, and a topic and a bus with a queue each.
async fn prepare(moto: &Moto) -> Result<()> {
    let main = [
        ("DBInstanceIdentifier", "ledger"),
        ("DBInstanceClass", "db.r6g.xlarge"),
        ("Engine", "postgres"),
        ("AllocatedStorage", "20"),
    ];
    moto.rds(MAIN, "CreateDBInstance", &main).await?;
    let source = format!("arn:aws:rds:{MAIN}:{ACCOUNT}:db:ledger");
    let replica = [
        ("DBInstanceIdentifier", "ledger-standby"),
        ("SourceDBInstanceIdentifier", source.as_str()),
        ("DBInstanceClass", "db.r6g.large"),
    ];
    moto.rds(HERE, "CreateDBInstanceReadReplica", &replica).await?;
    moto.make_table(HERE, "state").await?;
    moto.messaging((HERE, "sns"), "CreateTopic", &[("Name", "notices")]).await?;
    for queue in ["topic", "bus"] {
        moto.messaging((HERE, "sqs"), "CreateQueue", &[("QueueName", queue)]).await?;
    }
    let topic = format!("arn:aws:sns:{HERE}:{ACCOUNT}:notices");
    let queue = |name: &str| format!("arn:aws:sqs:{HERE}:{ACCOUNT}:{name}");
    let endpoint = queue("topic");
    let subscription = [
        ("TopicArn", topic.as_str()),
        ("Protocol", "sqs"),
        ("Endpoint", endpoint.as_str()),
        ("Attributes.entry.1.key", "RawMessageDelivery"),
        ("Attributes.entry.1.value", "true"),
    ];
    moto.messaging((HERE, "sns"), "Subscribe", &subscription).await?;
    let rule = json!({ "Name": "notices", "EventPattern": "{\"source\":[\"fairdrop\"]}" });
    moto.json((HERE, "events"), "AWSEvents.PutRule", &rule).await?;
    let targets = json!({ "Rule": "notices", "Targets": [{ "Id": "1", "Arn": queue("bus") }] });
    moto.json((HERE, "events"), "AWSEvents.PutTargets", &targets).await?;
    Ok(())
}

type ProxyState = (Arc<Moto>, Arc<Mutex<RdsFault>>, reqwest::Client);

async fn proxy_of_rds(moto: Arc<Moto>, fault: Arc<Mutex<RdsFault>>) -> Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = Router::new().fallback(pass).with_state((moto, fault, reqwest::Client::new()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(url)
}

async fn pass(State((moto, fault, client)): State<ProxyState>, headers: HeaderMap, body: Bytes) -> Response {
    let xml =
        |status: StatusCode, text: String| (status, [("content-type", "text/xml")], text).into_response();
    let fault = fault.lock().unwrap().clone();
    let replaced = match fault {
        RdsFault::Nothing => None,
        RdsFault::Throttling => {
            let text = "<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>";
            return xml(StatusCode::BAD_REQUEST, text.into());
        }
        RdsFault::Silence(time) => {
            tokio::time::sleep(time).await;
            return xml(StatusCode::SERVICE_UNAVAILABLE, String::new());
        }
        RdsFault::Replaced(text, by) => Some((text, by)),
    };
    let mut request = client.post(moto.url()).body(body);
    for name in ["authorization", "content-type"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
    let text = answer.text().await.unwrap();
    xml(status, replaced.map_or_else(|| text.clone(), |(old, new)| text.replace(old, new)))
}

/// A sample event with an alarm's own ARN and moment.
pub(crate) fn alarm(file: &str, since: &str) -> Value {
    let mut event = tests::sample(file);
    event["alarmData"]["state"]["timestamp"] = json!(since);
    event
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    (local::system::clock::micros_now() / 1_000).cast_signed()
}

/// Adds a sample to the test's series in the folder `FAIRDROP_RECORD`, if that is set. The series in
/// `tests/simulations/replica_verdict/recorded/` were made in this way.
fn record(sample: &Value) -> Result<()> {
    let Some(folder) = std::env::var_os("FAIRDROP_RECORD") else { return Ok(()) };
    let test = std::thread::current().name().unwrap_or("series").to_owned();
    let path = std::path::Path::new(&folder).join(format!("{test}.jsonl"));
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(std::io::Write::write_all(&mut file, format!("{sample}\n").as_bytes())?)
}

//! Stands for AWS's control plane: it implements the protocols of the calls that a failover makes through the AWS
//! SDKs, and acts on the real servers of this machine.
//!
//! One address serves all regions and services, as with other emulators: region and service are in the scope of a
//! request's signature, which is not verified. What takes time on AWS takes time here, descriptions are stale as they
//! are there, and a region that is partitioned or down does not answer. Unknown actions and parameters are refused,
//! never ignored.

mod api_error;
pub mod database;
mod database_calls;
pub mod datastore;
mod datastore_calls;
mod draws;
mod function_calls;
mod function_state;
pub mod functions;
mod query;
mod replicas;
mod schedules;
mod tables;
mod xml;

use anyhow::{Context, Result};
use api_error::{ApiError, respond};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response};
use database::DatabaseInstances;
use datastore::GlobalDatastore;
pub use draws::Draws;
use functions::Fleet;
use query::Form;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tables::Tables;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use xml::{element, text};

/// The account number in all ARNs.
pub const ACCOUNT: &str = "123456789012";
/// The longest request, in bytes: Lambda's limit for a payload.
const MAX_BODY_BYTES: usize = 6 * 1024 * 1024;
/// How long a silent region holds a caller, whose own time-out should be shorter.
const SILENCE: Duration = Duration::from_secs(60);

/// Whether a region's control plane is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// It answers.
    Up,
    /// Requests are not answered, as in a network partition.
    Silent,
    /// The region is down: requests are answered with an error.
    Gone,
}

/// The resources of the account.
#[derive(Debug)]
pub struct ControlledAccount {
    /// Database instances.
    pub databases: Arc<DatabaseInstances>,
    datastore: OnceLock<Arc<GlobalDatastore>>,
    fleets: Mutex<HashMap<String, Arc<Fleet>>>,
    tables: Tables,
    reachability: RegionReachability,
    throttled: AtomicU32,
    draws: Draws,
}

/// Which regions are reachable.
#[derive(Clone, Debug, Default)]
pub struct RegionReachability(Arc<Mutex<HashMap<String, watch::Sender<Reachability>>>>);

impl RegionReachability {
    /// Watches a region's reachability.
    pub fn watch(&self, region: &str) -> watch::Receiver<Reachability> {
        let mut reachability = locked(&self.0);
        reachability
            .entry(region.to_owned())
            .or_insert_with(|| watch::channel(Reachability::Up).0)
            .subscribe()
    }

    /// Partitions a region, or restores it.
    pub fn set(&self, region: &str, reach: Reachability) {
        let _watched = self.watch(region);
        if let Some(known) = locked(&self.0).get(region) {
            known.send_replace(reach);
        }
    }
}

impl ControlledAccount {
    /// The reachability of each region.
    pub fn reachability(&self) -> &RegionReachability {
        &self.reachability
    }

    /// The global datastore, if it was created.
    pub fn datastore(&self) -> Option<&Arc<GlobalDatastore>> {
        self.datastore.get()
    }

    /// Creates the global datastore. There can be only one.
    pub fn set_datastore(&self, datastore: GlobalDatastore) -> Result<()> {
        self.datastore.set(Arc::new(datastore)).ok().context("the account already has a global datastore")
    }

    /// A region's functions and schedules.
    pub fn fleet(&self, region: &str) -> Option<Arc<Fleet>> {
        locked(&self.fleets).get(region).cloned()
    }

    /// Adds a region's functions and schedules.
    pub fn add_fleet(&self, fleet: Arc<Fleet>) {
        locked(&self.fleets).insert(fleet.region().to_owned(), fleet);
    }

    /// What the documents leave open.
    pub fn draws(&self) -> &Draws {
        &self.draws
    }

    /// Answers the next `calls` calls with a throttling error.
    pub fn throttle(&self, calls: u32) {
        self.throttled.store(calls, Ordering::Relaxed);
    }

    fn is_throttled(&self) -> bool {
        let less = |calls: u32| calls.checked_sub(1);
        self.throttled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    port: u16,
    account: Arc<ControlledAccount>,
    serving: JoinHandle<()>,
}

impl ControlPlane {
    /// Opens a control plane on a free port. The stand-in at `tables_url` keeps the DynamoDB tables. The table `global` is in
    /// the region `home`; every region reads the same, as with a global table of strong consistency. What the documents
    /// leave open comes from `draws`.
    pub async fn open(tables_url: &str, (home, global): (&str, &str), draws: Draws) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let account = Arc::new(ControlledAccount {
            databases: Arc::new(DatabaseInstances::new(draws.clone())),
            datastore: OnceLock::new(),
            fleets: Mutex::default(),
            tables: Tables::new(tables_url, home, global),
            reachability: RegionReachability::default(),
            throttled: AtomicU32::new(0),
            draws,
        });
        let router = axum::Router::new().fallback(answer).with_state(account.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { port, account, serving })
    }

    /// The address, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The account.
    pub fn account(&self) -> &ControlledAccount {
        &self.account
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A request, with its region and service.
struct Call {
    region: String,
    service: String,
    parts: Parts,
    body: Bytes,
}

async fn answer(State(account): State<Arc<ControlledAccount>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Some((region, service)) = scope(&parts.headers) else {
        let why = "the request's signature has no scope with region and service";
        return ApiError::new(403, "MissingAuthenticationToken", why).into_json();
    };
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return ApiError::new(413, "RequestTooLargeException", "the request is too long").into_json();
    };
    let call = Call { region, service, parts, body };
    match call.service.as_str() {
        "dynamodb" => answer_table(&account, &call).await,
        "rds" | "elasticache" => answer_query(&account, &call).await,
        "lambda" => function_calls::answer(&account, &call).await.unwrap_or_else(ApiError::into_json),
        "scheduler" => schedules::answer(&account, &call).await.unwrap_or_else(ApiError::into_json),
        other => ApiError::unknown(&format!("the service {other}")).into_json(),
    }
}

/// Answers a call of DynamoDB. The global table is available everywhere; a partition of a region from it is made in its own
/// connection. Other tables are in one region.
async fn answer_table(account: &Arc<ControlledAccount>, call: &Call) -> Response<Body> {
    if !account.tables.is_global(call) {
        let throttling = ApiError::new(400, "ThrottlingException", "Rate exceeded");
        if let Err(refusal) = account.admit(call, throttling).await {
            return refusal.into_json();
        }
    }
    account.tables.pass_on(call).await
}

/// Answers a call of RDS or ElastiCache.
async fn answer_query(account: &Arc<ControlledAccount>, call: &Call) -> Response<Body> {
    let form = Form::parse(&call.body);
    let throttling = ApiError::new(400, "Throttling", "Rate exceeded");
    if let Err(refusal) = account.admit(call, throttling).await {
        return refusal.as_xml();
    }
    let action = form.get("Action").unwrap_or_default();
    let answer = match call.service.as_str() {
        "rds" => database_calls::answer(account, &call.region, action, &form),
        _ => datastore_calls::answer(account, &call.region, action, &form),
    };
    match answer {
        Err(refusal) => refusal.as_xml(),
        Ok(result) => {
            let result = element(&format!("{action}Result"), &result);
            let metadata = element("ResponseMetadata", &text("RequestId", "local"));
            let body = element(&format!("{action}Response"), &[result, metadata].concat());
            respond(200, "text/xml", body)
        }
    }
}

impl ControlledAccount {
    /// Waits while the region is silent. Refuses if the region is down, or if the call is to be throttled.
    async fn admit(&self, call: &Call, throttling: ApiError) -> Result<(), ApiError> {
        let mut reach = self.reachability.watch(&call.region);
        let heard =
            tokio::time::timeout(SILENCE, reach.wait_for(|reach| *reach != Reachability::Silent)).await;
        let is_up = heard.is_ok_and(|heard| heard.is_ok_and(|reach| *reach == Reachability::Up));
        if !is_up {
            return Err(ApiError::new(503, "ServiceUnavailable", "the region does not answer"));
        }
        if self.is_throttled() { Err(throttling) } else { Ok(()) }
    }
}

/// Region and service, from `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
fn scope(headers: &HeaderMap) -> Option<(String, String)> {
    let authorization = headers.get("authorization")?.to_str().ok()?;
    let (_, credential) = authorization.split_once("Credential=")?;
    let mut parts = credential.split(',').next()?.split('/').skip(2);
    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A proxy in front of moto that adds what RDS does and moto does not: pages, throttling, failures, and the source of a
//! copy from another region.

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use local::aws::emulators::{Moto, elements};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The faults that the proxy injects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProxyFaults {
    /// The number of elements on a page of a list.
    pub(crate) page: usize,
    pub(crate) throttled: f64,
    pub(crate) failing: f64,
}

pub(crate) const NO_FAULTS: ProxyFaults = ProxyFaults { page: 100, throttled: 0.0, failing: 0.0 };

/// It also counts calls.
pub(crate) struct FaultyProxy {
    pub(crate) url: String,
    moto: Arc<Moto>,
    client: reqwest::Client,
    pub(crate) faults: Mutex<ProxyFaults>,
    chance: Mutex<SmallRng>,
    calls: Mutex<BTreeMap<String, u64>>,
    /// By region: the last list, so that moto writes it once for all pages.
    lists: Mutex<BTreeMap<String, Arc<String>>>,
    /// By region and identifier of a copy: the ARN of its original.
    sources: Mutex<BTreeMap<(String, String), String>>,
}

impl FaultyProxy {
    pub(crate) async fn start(moto: Arc<Moto>, faults: ProxyFaults) -> Result<Arc<Self>> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Arc::new(Self {
            url: format!("http://{}", listener.local_addr()?),
            moto,
            client: reqwest::Client::new(),
            faults: Mutex::new(faults),
            chance: Mutex::new(SmallRng::seed_from_u64(7)),
            calls: Mutex::default(),
            lists: Mutex::default(),
            sources: Mutex::default(),
        });
        let router = Router::new().fallback(pass).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(proxy)
    }

    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// RDS names the source of a copy from another region; moto names none.
    fn with_sources(&self, region: &str, mut text: String) -> String {
        let sources = self.sources.lock().unwrap();
        for ((_, id), source) in sources.iter().filter(|((of, _), _)| of == region) {
            let id = format!("<DBSnapshotIdentifier>{id}</DBSnapshotIdentifier>");
            let both = format!("{id}<SourceDBSnapshotIdentifier>{source}</SourceDBSnapshotIdentifier>");
            text = text.replace(&id, &both);
        }
        text
    }
}

async fn pass(State(proxy): State<Arc<FaultyProxy>>, headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let field = |name: &str| {
        body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned)
    };
    let action = field("Action").unwrap_or_default();
    *proxy.calls.lock().unwrap().entry(action.clone()).or_default() += 1;
    let faults = *proxy.faults.lock().unwrap();
    let drawn: f64 = proxy.chance.lock().unwrap().random();
    if drawn < faults.throttled {
        return refuse(StatusCode::BAD_REQUEST, "Throttling", "Rate exceeded");
    }
    if drawn < faults.throttled + faults.failing {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "");
    }
    // Moto lacks this call. The answer has the form of the API reference.
    if action == "DescribeAccountAttributes" {
        return xml(StatusCode::OK, "<DescribeAccountAttributesResponse><DescribeAccountAttributesResult><AccountQuotas>\
            <AccountQuota><AccountQuotaName>DBInstances</AccountQuotaName><Used>1</Used><Max>40</Max></AccountQuota>\
            <AccountQuota><AccountQuotaName>ManualSnapshots</AccountQuotaName><Used>12</Used><Max>100</Max></AccountQuota>\
            </AccountQuotas></DescribeAccountAttributesResult></DescribeAccountAttributesResponse>".into());
    }
    let scope =
        headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let region = scope.split('/').nth(2).unwrap_or_default().to_owned();
    let marker: usize = field("Marker").and_then(|marker| marker.parse().ok()).unwrap_or(0);
    let is_list = action == "DescribeDBSnapshots" && field("DBSnapshotIdentifier").is_none();
    let cached = proxy.lists.lock().unwrap().get(&region).cloned();
    let whole = match cached {
        Some(cached) if is_list && marker > 0 => cached,
        _ => {
            let forwarded: Vec<&str> = body
                .split('&')
                .filter(|pair| !pair.starts_with("Marker=") && !pair.starts_with("MaxRecords="))
                .collect();
            let request = proxy.client.post(proxy.moto.url()).header("authorization", scope);
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            let answer = request.body(forwarded.join("&")).send().await.unwrap();
            let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
            if action == "CopyDBSnapshot" && status.is_success() {
                let id = field("TargetDBSnapshotIdentifier").unwrap();
                let source = field("SourceDBSnapshotIdentifier").unwrap().replace("%3A", ":");
                proxy.sources.lock().unwrap().insert((region.clone(), id), source);
            }
            let text = proxy.with_sources(&region, answer.text().await.unwrap());
            if !is_list || !status.is_success() {
                return xml(status, text);
            }
            let text = Arc::new(text);
            proxy.lists.lock().unwrap().insert(region, text.clone());
            text
        }
    };
    let all = elements(&whole, "DBSnapshot");
    let page = all.iter().skip(marker).take(faults.page).map(|one| format!("<DBSnapshot>{one}</DBSnapshot>"));
    let page: String = page.collect();
    let next = marker + faults.page;
    let next = if next < all.len() { format!("<Marker>{next}</Marker>") } else { String::new() };
    xml(
        StatusCode::OK,
        format!(
            "<DescribeDBSnapshotsResponse><DescribeDBSnapshotsResult>{next}<DBSnapshots>{page}</DBSnapshots></DescribeDBSnapshotsResult></DescribeDBSnapshotsResponse>"
        ),
    )
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    xml(
        status,
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        ),
    )
}

fn xml(status: StatusCode, text: String) -> Response {
    (status, [("content-type", "text/xml")], text).into_response()
}

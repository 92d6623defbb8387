//! AWS's answers, replayed to the real SDKs: how each answer is read, and what is sent.

mod datastore;
mod functions;
mod instance;

use super::datastore::DatastoreClient;
use super::functions::Functions;
use super::instance::Instances;
use crate::observation::Obstacle;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use local::aws::wire;
use sdk::RetryConfig;
use sdk::{Region, SdkConfig};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Answers by request (`Action` of the query protocol, otherwise method and path). The last answer of a list repeats.
struct ReplayedAws {
    config: SdkConfig,
    answers: Arc<Mutex<Answers>>,
    /// Requests and their bodies, in order.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

/// The functions that this region has.
const HERE: [&str; 6] =
    ["order-intake", "order-status", "checkout-drain", "checkout-worker", "order-confirm", "drop-admin"];
const ALIAS: &str = "/2015-03-31/functions/fairdrop-order-intake/aliases/live";
const VERSIONS: &str = "/2015-03-31/functions/fairdrop-order-intake/versions";

type Answers = HashMap<String, Vec<(u16, String)>>;

impl ReplayedAws {
    async fn start(answers: &[(&str, u16, &str)]) -> Self {
        let mut by_question: Answers = HashMap::new();
        // Optional functions are not deployed here.
        let not_found = r#"{"__type":"ResourceNotFoundException","Message":"Function not found"}"#;
        for name in ["order-place", "live-updates", "live-publish", "token-keys-store"] {
            for alias in ["", "?Qualifier=live"] {
                by_question.insert(format!("GET {}{alias}", function(name)), vec![(404, not_found.into())]);
            }
        }
        for (question, status, answer) in answers {
            by_question.entry((*question).to_owned()).or_default().push((*status, (*answer).to_owned()));
        }
        let (answers, asked) = (Arc::new(Mutex::new(by_question)), Arc::new(Mutex::new(Vec::new())));
        let of_server = (answers.clone(), asked.clone());
        let app = axum::Router::new().fallback(move |request: Request| {
            let (answers, log) = of_server.clone();
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                let action = body.split('&').find_map(|pair| pair.strip_prefix("Action=").map(str::to_owned));
                let question = action.unwrap_or(line);
                log.lock().unwrap().push((question.clone(), body));
                let mut answers = answers.lock().unwrap();
                let Some(list) = answers.get_mut(&question) else {
                    return (StatusCode::NOT_IMPLEMENTED, format!("no answer to {question}")).into_response();
                };
                let (status, answer) = if list.len() > 1 { list.remove(0) } else { list[0].clone() };
                (StatusCode::from_u16(status).unwrap(), answer).into_response()
            }
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let credentials = Credentials::new("test", "test", None, None, "test");
        let config = sdk::defaults()
            .region(Region::new("eu-west-1"))
            .endpoint_url(wire::checked(Some("region-failover"), &url).unwrap())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(RetryConfig::disabled())
            .build();
        Self { config, answers, asked }
    }

    /// From now on this is the only answer to `question`.
    fn answer(&self, question: &str, status: u16, answer: &str) {
        self.answers.lock().unwrap().insert(question.into(), vec![(status, answer.into())]);
    }

    fn source(name: &str) -> Option<String> {
        let value = match name {
            "FAIRDROP_REPLICA_INSTANCE" => "replica",
            "FAIRDROP_MAIN_INSTANCE" => "main",
            "FAIRDROP_FENCE_GROUP" => "sg-0f",
            "FAIRDROP_REDIS_DATASTORE" => "ldgnf-fairdrop",
            "FAIRDROP_REDIS_GROUP" => "redis-here",
            "FAIRDROP_REGIONS" => "eu-west-1",
            "FAIRDROP_MAIN_CONCURRENCY" => "checkout-drain=6,order-confirm=50",
            "FAIRDROP_STACK" => "fairdrop",
            "FAIRDROP_STANDBY_REDIS_URL" => "rediss://here:6379",
            "FAIRDROP_DRAIN_SCHEDULE" => "fairdrop-drain",
            "FAIRDROP_WORKER_SCHEDULE" => "fairdrop-worker",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn instances(&self) -> Instances {
        Instances::from_config(&Self::source, &self.config, "eu-west-1", "us-east-1").unwrap()
    }

    fn datastore(&self) -> DatastoreClient {
        DatastoreClient::from_config(&Self::source, &self.config, "eu-west-1").unwrap()
    }

    fn functions(&self) -> Functions {
        Functions::from_config(&Self::source, &self.config, "eu-west-1").unwrap()
    }

    /// Repoints all functions, as an execution that was not overtaken.
    async fn repoint(&self) -> Result<(), Obstacle> {
        self.functions().repoint(true, None, &|| Box::pin(async { Ok(()) })).await
    }

    /// The bodies sent with `question`.
    fn sent(&self, question: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == question).map(|(_, body)| body.clone()).collect()
    }
}

impl Drop for ReplayedAws {
    fn drop(&mut self) {
        wire::fail(wire::settle());
    }
}

/// An error as RDS and ElastiCache return it.
fn refusal(code: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
    )
}

/// The path of a function's configuration.
fn function(name: &str) -> String {
    format!("/2015-03-31/functions/fairdrop-{name}/configuration")
}

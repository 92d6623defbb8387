//! Other projects' emulators of AWS: moto's server, and ministack for CloudWatch and CloudFormation, whose protocols
//! moto does not implement.

use crate::system::process::{Process, free_port, tool};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// A running moto server: an empty account of its own, with all regions.
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    port: u16,
    client: reqwest::Client,
}

impl Moto {
    /// Starts a server on a free port, with its log in `folder` and the additional `environment`.
    pub async fn start(folder: &Path, environment: &[(String, String)]) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(tool("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start("moto", &mut command, &folder.join("moto.log"))?;
        process.wait_for_port(port).await?;
        Ok(Self { _process: process, port, client: reqwest::Client::new() })
    }

    /// The address, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Calls an action of RDS in `region`, and returns its XML.
    pub async fn rds(&self, region: &str, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let service = Service { name: "rds", version: "2014-10-31", region };
        query(&self.client, &self.url(), service, action, parameters).await
    }

    /// Calls an action of SNS or SQS in `region`, and returns its XML.
    pub async fn messaging(
        &self,
        (region, service): (&str, &str),
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<String> {
        let version = if service == "sns" { "2010-03-31" } else { "2012-11-05" };
        let service = Service { name: service, version, region };
        query(&self.client, &self.url(), service, action, parameters).await
    }

    /// Calls an operation of a service that speaks JSON, such as `DynamoDB_20120810.CreateTable`.
    pub async fn json(
        &self,
        (region, service): (&str, &str),
        operation: &str,
        input: &serde_json::Value,
    ) -> Result<serde_json::Value> {
        json(&self.client, &self.url(), (region, service), operation, input).await
    }

    /// Creates a DynamoDB table in `region` whose key is `id`.
    pub async fn make_table(&self, region: &str, name: &str) -> Result<()> {
        let table = serde_json::json!({
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{ "AttributeName": "id", "AttributeType": "S" }],
            "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }],
        });
        self.json((region, "dynamodb"), "DynamoDB_20120810.CreateTable", &table).await.map(drop)
    }

    /// Creates an order log in `region`: the table as template.yaml has it, with its stream.
    pub async fn make_order_log(&self, region: &str, name: &str) -> Result<()> {
        let table = serde_json::json!({
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                { "AttributeName": "item_bucket", "AttributeType": "S" },
                { "AttributeName": "buyer_stamp", "AttributeType": "S" },
            ],
            "KeySchema": [
                { "AttributeName": "item_bucket", "KeyType": "HASH" },
                { "AttributeName": "buyer_stamp", "KeyType": "RANGE" },
            ],
            "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_IMAGE" },
        });
        self.json((region, "dynamodb"), "DynamoDB_20120810.CreateTable", &table).await.map(drop)
    }

    /// The variables by which a function's SDK finds the server.
    pub fn environment_at(url: &str) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ENDPOINT_URL", url),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }
}

/// A running ministack.
#[derive(Debug)]
pub struct Ministack {
    _process: Process,
    port: u16,
    client: reqwest::Client,
}

impl Ministack {
    /// Starts it on a free port, with its log in `folder`.
    pub async fn start(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(tool("ministack"));
        // By default ministack listens on every interface.
        command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string()).current_dir(folder);
        // Functions run as processes of this machine: there is no Docker.
        command.env("LAMBDA_EXECUTOR", "local");
        // ministack never deletes the functions' code from the folder for temporary files.
        command.env("TMPDIR", folder);
        let mut process = Process::start("ministack", &mut command, &folder.join("ministack.log"))?;
        process.wait_for_port(port).await?;
        Ok(Self { _process: process, port, client: reqwest::Client::new() })
    }

    /// The address, for `AWS_ENDPOINT_URL_CLOUDWATCH`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Writes one value of a metric, with the current time.
    pub async fn put_metric(
        &self,
        region: &str,
        (namespace, metric): (&str, &str),
        dimensions: &[(&str, &str)],
        value: f64,
    ) -> Result<()> {
        let value = value.to_string();
        let datum = "MetricData.member.1";
        let mut form = vec![("Namespace".to_owned(), namespace.to_owned())];
        form.push((format!("{datum}.MetricName"), metric.to_owned()));
        form.push((format!("{datum}.Value"), value));
        for (number, (name, value)) in dimensions.iter().enumerate() {
            form.push((format!("{datum}.Dimensions.member.{}.Name", number + 1), (*name).to_owned()));
            form.push((format!("{datum}.Dimensions.member.{}.Value", number + 1), (*value).to_owned()));
        }
        let form: Vec<(&str, &str)> =
            form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let service = Service { name: "monitoring", version: "2010-08-01", region };
        query(&self.client, &self.url(), service, "PutMetricData", &form).await.map(drop)
    }

    /// Calls an action of CloudFormation in `region`, and returns its XML.
    pub async fn stacks(&self, region: &str, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let service = Service { name: "cloudformation", version: "2010-05-15", region };
        query(&self.client, &self.url(), service, action, parameters).await
    }
}

/// A service that speaks the query protocol, in a region.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub region: &'a str,
}

/// Calls an action of the query protocol, and returns its XML.
pub async fn query(
    client: &reqwest::Client,
    url: &str,
    Service { name, version, region }: Service<'_>,
    action: &str,
    parameters: &[(&str, &str)],
) -> Result<String> {
    let mut form = vec![("Action", action), ("Version", version)];
    form.extend(parameters);
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs: Vec<String> =
        form.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let request = client.post(url).header("authorization", authorization(region, name));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let response = request
        .body(pairs.join("&"))
        .send()
        .await
        .with_context(|| format!("the emulator at {url} did not answer {action} in {region}"))?;
    let status = response.status();
    let text = response.text().await?;
    ensure!(status.is_success(), "the emulator refused {action} in {region}: {status} {text}");
    Ok(text)
}

/// Calls an operation of a service that speaks JSON.
pub async fn json(
    client: &reqwest::Client,
    url: &str,
    (region, service): (&str, &str),
    operation: &str,
    input: &serde_json::Value,
) -> Result<serde_json::Value> {
    let request = client.post(url).header("authorization", authorization(region, service));
    let request =
        request.header("x-amz-target", operation).header("content-type", "application/x-amz-json-1.0");
    let response = request
        .body(input.to_string())
        .send()
        .await
        .with_context(|| format!("the emulator did not answer {operation} in {region}"))?;
    let status = response.status();
    let text = response.text().await?;
    ensure!(status.is_success(), "the emulator refused {operation} in {region}: {status} {text}");
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// The header by which an emulator knows region and service: it reads the scope of the signature, and does not verify
/// the signature.
pub fn authorization(region: &str, service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// The texts of all elements `name` in an XML document, in order.
pub fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let pieces = xml.split(open.as_str()).skip(1);
    pieces.filter_map(|piece| piece.split_once(close.as_str()).map(|(text, _)| text)).collect()
}

//! An emulator of AWS: moto's server, for the calls that it knows.

use crate::process::{Process, free_port, tool};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// A running moto server: an account of its own, all regions, nothing in it.
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    port: u16,
    client: reqwest::Client,
}

impl Moto {
    /// Starts a server on a free port, with its log in `folder` and `environment` on top.
    pub async fn start(folder: &Path, environment: &[(String, String)]) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(tool("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start("moto", &mut command, &folder.join("moto.log"))?;
        process.wait_for_port(port).await?;
        Ok(Self { _process: process, port, client: reqwest::Client::new() })
    }

    /// Its address, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Calls an action of RDS in `region`, and returns its XML.
    pub async fn rds(&self, region: &str, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let mut form = vec![("Action", action), ("Version", "2014-10-31")];
        form.extend(parameters);
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let pairs: Vec<String> =
            form.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        // The region is in the signature's scope; the signature itself is not looked at.
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/{region}/rds/aws4_request, SignedHeaders=host, Signature=0"
        );
        let request = self.client.post(self.url()).header("authorization", scope);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let response = request.body(pairs.join("&")).send().await.context("moto does not answer")?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{action} in {region}: {status} {text}");
        Ok(text)
    }

    /// What a function needs to speak to the server.
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

/// The texts of all elements `name` in an XML document, in order.
pub fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let pieces = xml.split(open.as_str()).skip(1);
    pieces.filter_map(|piece| piece.split_once(close.as_str()).map(|(text, _)| text)).collect()
}

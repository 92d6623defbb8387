//! An emulated AWS account, and deployments into it.

use anyhow::{Context, Result, bail, ensure};
use local::aws::emulators::{Ministack, authorization};
use local::system::process::tool;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::template::{Adapted, MAIN, STANDBY, adapt};

pub(crate) struct Cloud {
    pub(crate) ministack: Ministack,
    client: reqwest::Client,
}

impl Cloud {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        Ok(Self { ministack: Ministack::start(folder).await?, client: reqwest::Client::new() })
    }

    /// Deploys `build` into `region` with the SAM CLI. Returns the resources that the emulator does not support.
    pub(crate) fn deploy(
        &self,
        build: &Path,
        region: &str,
        parameters: &BTreeMap<&str, String>,
    ) -> Result<Vec<String>> {
        let template = std::fs::read_to_string(build.join("template.yaml"))?;
        let Adapted { text, left_out } = adapt(&template, region);
        let adapted = format!("{region}.yaml");
        std::fs::write(build.join(&adapted), text)?;
        let quoted = parameters.iter().map(|(name, value)| format!("{name} = '{value}'\n"));
        let config = format!(
            "version = 0.1\n[here.deploy.parameters]\ntemplate_file = '{adapted}'\nstack_name = 'fairdrop'\n\
             region = '{region}'\ncapabilities = 'CAPABILITY_IAM CAPABILITY_AUTO_EXPAND'\nresolve_s3 = true\n\
             confirm_changeset = false\nno_progressbar = true\n[here.deploy.parameters.parameter_overrides]\n{}",
            quoted.collect::<String>()
        );
        let config_file = build.join(format!("{region}.toml"));
        std::fs::write(&config_file, config)?;
        let output = Command::new(tool("sam"))
            .args(["deploy", "--config-env", "here", "--config-file"])
            .arg(&config_file)
            .current_dir(build)
            .envs([
                ("AWS_ENDPOINT_URL", self.ministack.url().as_str()),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
                ("SAM_CLI_TELEMETRY", "0"),
            ])
            .output()
            .context("could not start the SAM CLI; `make setup-deploy` installs it")?;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "sam deploy failed: {out}\n{error}");
        Ok(left_out)
    }

    /// Creates a stack of `template` in `region`. Fails if CloudFormation refuses the request.
    pub(crate) async fn ask(
        &self,
        region: &str,
        stack: &str,
        template: &str,
        parameters: &BTreeMap<&str, String>,
    ) -> Result<()> {
        let mut form: Vec<(String, String)> = vec![
            ("StackName".to_owned(), stack.to_owned()),
            ("TemplateBody".to_owned(), template.to_owned()),
        ];
        for (n, (name, value)) in (1..).zip(parameters) {
            form.push((format!("Parameters.member.{n}.ParameterKey"), (*name).to_owned()));
            form.push((format!("Parameters.member.{n}.ParameterValue"), value.clone()));
        }
        let form: Vec<(&str, &str)> =
            form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.ministack.stacks(region, "CreateStack", &form).await.map(drop)
    }

    /// Calls Lambda's API.
    pub(crate) async fn lambda(&self, region: &str, method: &str, path: &str, body: String) -> Result<Value> {
        let scope = authorization(region, "lambda");
        let request = self
            .client
            .request(method.parse()?, format!("{}/2015-03-31/functions{path}", self.ministack.url()));
        let request = request.header("authorization", scope).header("content-type", "application/json");
        let answer = request.body(body).timeout(Duration::from_secs(120)).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{method} {path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// The functions of a region, by name without the stack's prefix, and their environments.
    pub(crate) async fn functions(&self, region: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
        let listed = self.lambda(region, "GET", "/", String::new()).await?;
        let functions = listed["Functions"].as_array().context("no list of functions")?;
        functions
            .iter()
            .map(|function| {
                let name = function["FunctionName"].as_str().context("a function in the list has no name")?;
                let name =
                    name.strip_prefix("fairdrop-").context("a function's name lacks the stack's prefix")?;
                let variables = serde_json::from_value(function["Environment"]["Variables"].clone())?;
                Ok((name.to_owned(), variables))
            })
            .collect()
    }

    /// Changes some variables of a function.
    pub(crate) async fn set(&self, region: &str, function: &str, with: &[(&str, String)]) -> Result<()> {
        let mut variables =
            self.functions(region).await?.remove(function).context("the region has no such function")?;
        variables.extend(with.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let body = json!({ "Environment": { "Variables": variables } }).to_string();
        self.lambda(region, "PUT", &format!("/fairdrop-{function}/configuration"), body).await.map(drop)
    }

    /// Publishes a version of a function and sets the alias `live` to it, as a deployment does.
    pub(crate) async fn publish(&self, region: &str, function: &str) -> Result<()> {
        let path = format!("/fairdrop-{function}");
        let published = self.lambda(region, "POST", &format!("{path}/versions"), "{}".into()).await?;
        let alias = json!({ "FunctionVersion": published["Version"] }).to_string();
        self.lambda(region, "PUT", &format!("{path}/aliases/live"), alias).await.map(drop)
    }

    /// Sends a buyer's request to the host name of the region's HTTP API. Returns status and body.
    pub(crate) async fn http(
        &self,
        region: &str,
        method: &str,
        path: &str,
        token: &str,
    ) -> Result<(u16, Value)> {
        let scope = authorization(region, "apigateway");
        let apis =
            self.client.get(format!("{}/v2/apis", self.ministack.url())).header("authorization", scope);
        let apis: Value = serde_json::from_str(&apis.send().await?.text().await?)?;
        let listed = apis["items"].as_array().or(apis["Items"].as_array()).context("no list of APIs")?;
        let id = listed.first().and_then(|api| api["apiId"].as_str()).context("there is no API")?;
        let request = self.client.request(method.parse()?, format!("{}{path}", self.ministack.url()));
        let request = request.header("host", format!("{id}.execute-api.localhost")).bearer_auth(token);
        let answer = request.timeout(Duration::from_secs(40)).send().await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_str(&answer.text().await?).unwrap_or_default()))
    }

    pub(crate) async fn invoke(&self, region: &str, function: &str, event: &Value) -> Result<Value> {
        let answer = self
            .lambda(region, "POST", &format!("/fairdrop-{function}/invocations"), event.to_string())
            .await?;
        if let Some(error) = answer.get("errorMessage") {
            bail!("{function}: {error}");
        }
        Ok(answer)
    }
}

/// Parameters of a deployment in which `region` is one of the three.
pub(crate) fn parameters(region: &str, jwks: &Value) -> BTreeMap<&'static str, String> {
    let mut parameters: BTreeMap<&str, String> = [
        ("MainRegion", MAIN),
        ("StandbyRegion", STANDBY),
        ("MainRedisEndpoint", "redis.example"),
        ("LedgerEndpoint", "ledger.example"),
        ("LedgerResourceId", "db-MAIN"),
        ("SubnetIds", "subnet-a,subnet-b"),
        ("SecurityGroupIds", "sg-a"),
        ("TokenIssuer", local::aws::identity::ISSUER),
        ("TokenAudience", local::aws::identity::AUDIENCE),
        ("MainInstance", "ledger"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    parameters.insert("TokenJwks", jwks.to_string());
    if region != MAIN && region != STANDBY {
        parameters.insert("LiveRedisEndpoint", "registry.example".to_owned());
    }
    if region == STANDBY {
        let of_standby = [
            ("ReplicaInstance", "ledger-standby"),
            ("ReplicaEndpoint", "replica.example"),
            ("ReplicaResourceId", "db-STANDBY"),
            ("ReplicaRedisEndpoint", "redis-standby.example"),
            ("LeaseTable", "fairdrop-lease"),
            ("RedisDatastore", "ldgnf-fairdrop"),
            ("RedisGroup", "fairdrop-standby"),
            ("StandbyRedisEndpoint", "redis-standby.example"),
            ("Regions", "us-east-1,eu-west-1,ap-southeast-1"),
            ("FenceSecurityGroup", "sg-0f"),
        ];
        parameters.extend(of_standby.map(|(name, value)| (name, value.to_owned())));
    }
    parameters
}

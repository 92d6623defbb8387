//! template.yaml and stores.yaml as CloudFormation expands them: SAM's translation, the parameters of a deployment, and
//! every condition and function evaluated.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;

mod deployments;

pub use deployments::{Deployment, OPTIONS, deployments, store_deployments};

/// The account of an expanded template.
pub const ACCOUNT: &str = "111122223333";

/// The longest name of a stack: the longest name of a function has 64 characters then.
pub const LONGEST_STACK: usize = 47;

/// Resources by logical id, each as CloudFormation creates it.
pub type Resources = BTreeMap<String, Value>;

/// What `translate.py` prints, read once in a process.
pub fn translated() -> &'static Value {
    static TRANSLATED: OnceLock<Value> = OnceLock::new();
    TRANSLATED.get_or_init(|| {
        let output = Command::new(local::system::process::tool("python"))
            .args(["-c", include_str!("translate.py")])
            .current_dir(local::system::process::workspace())
            .envs([("AWS_DEFAULT_REGION", crate::template::MAIN), ("SAM_CLI_TELEMETRY", "0")])
            .output()
            .expect("python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("translate.py prints JSON")
    })
}

/// `template` of [`translated`] ("template" or "stores") as CloudFormation creates it for `deployment`. Fails if a
/// rule of the template refuses the parameters.
pub fn expand(template: &str, deployment: &Deployment) -> Result<Resources> {
    let expansion = Expansion { template: &translated()[template], deployment };
    expansion.check_rules().with_context(|| deployment.name.clone())?;
    let resources = expansion.template["Resources"].as_object().context("a template has resources")?;
    let mut found = Resources::new();
    for (id, resource) in resources {
        if expansion.is_created(resource)? {
            let evaluated =
                expansion.evaluate(resource).with_context(|| format!("{}: {id}", deployment.name))?;
            found.insert(id.clone(), evaluated.context("a resource is not AWS::NoValue")?);
        }
    }
    Ok(found)
}

/// The conditions of `template` that hold for `deployment`, and those that do not.
pub fn conditions(template: &str, deployment: &Deployment) -> Result<BTreeMap<String, bool>> {
    let expansion = Expansion { template: &translated()[template], deployment };
    let names = expansion.template["Conditions"].as_object().context("the template has conditions")?.keys();
    names.map(|name| Ok((name.clone(), expansion.condition(name)?))).collect()
}

struct Expansion<'a> {
    template: &'a Value,
    deployment: &'a Deployment,
}

impl Expansion<'_> {
    fn is_created(&self, resource: &Value) -> Result<bool> {
        resource["Condition"].as_str().map_or(Ok(true), |name| self.condition(name))
    }

    fn condition(&self, name: &str) -> Result<bool> {
        let found = self.template["Conditions"].get(name).with_context(|| format!("no condition {name}"))?;
        self.holds(found)
    }

    fn holds(&self, condition: &Value) -> Result<bool> {
        let (function, argument) = only_entry(condition).context("a condition is a function")?;
        let list = || argument.as_array().with_context(|| format!("{function} takes a list"));
        let value = |one: &Value| Ok::<_, anyhow::Error>(self.evaluate(one)?.unwrap_or_default());
        Ok(match function {
            "Condition" => self.condition(argument.as_str().context("a condition's name")?)?,
            "Fn::Not" => !self.holds(&list()?[0])?,
            "Fn::And" => {
                list()?.iter().map(|one| self.holds(one)).collect::<Result<Vec<_>>>()?.iter().all(|one| *one)
            }
            "Fn::Or" => {
                list()?.iter().map(|one| self.holds(one)).collect::<Result<Vec<_>>>()?.contains(&true)
            }
            // CloudFormation compares texts.
            "Fn::Equals" => text_of(&value(&list()?[0])?)? == text_of(&value(&list()?[1])?)?,
            "Fn::Contains" => {
                let members = value(&list()?[0])?;
                members.as_array().context("Fn::Contains takes a list")?.contains(&value(&list()?[1])?)
            }
            other => bail!("{other} is no function of a condition"),
        })
    }

    fn check_rules(&self) -> Result<()> {
        for (name, rule) in self.template["Rules"].as_object().into_iter().flatten() {
            let applies = rule.get("RuleCondition").map_or(Ok(true), |condition| self.holds(condition))?;
            for assertion in rule["Assertions"].as_array().into_iter().flatten().filter(|_| applies) {
                let holds = self.holds(&assertion["Assert"])?;
                ensure!(holds, "rule {name}: {}", assertion["AssertDescription"]);
            }
        }
        Ok(())
    }

    /// The value with every function evaluated; `None` for AWS::NoValue.
    fn evaluate(&self, value: &Value) -> Result<Option<Value>> {
        if let Some((function, argument)) = only_entry(value)
            && (function == "Ref" || function.starts_with("Fn::"))
        {
            return self.call(function, argument);
        }
        Ok(Some(match value {
            Value::Object(entries) => {
                let mut evaluated = Map::new();
                for (key, entry) in entries {
                    if let Some(entry) = self.evaluate(entry)? {
                        evaluated.insert(key.clone(), entry);
                    }
                }
                Value::Object(evaluated)
            }
            Value::Array(list) => {
                let all = list.iter().map(|one| self.evaluate(one)).collect::<Result<Vec<_>>>()?;
                Value::Array(all.into_iter().flatten().collect())
            }
            other => other.clone(),
        }))
    }

    fn call(&self, function: &str, argument: &Value) -> Result<Option<Value>> {
        let list = || argument.as_array().with_context(|| format!("{function} takes a list"));
        let value = |one: &Value| Ok::<_, anyhow::Error>(self.evaluate(one)?.unwrap_or_default());
        Ok(Some(match function {
            "Ref" => return self.reference(argument.as_str().context("Ref takes a name")?),
            "Fn::If" => {
                let holds =
                    self.condition(list()?[0].as_str().context("Fn::If takes a condition's name")?)?;
                return self.evaluate(&list()?[if holds { 1 } else { 2 }]);
            }
            "Fn::Sub" => json!(self.substitute(argument)?),
            "Fn::GetAtt" => {
                let (id, attribute) = match argument {
                    Value::String(text) => text.split_once('.').context("Fn::GetAtt takes a path")?,
                    _ => {
                        (list()?[0].as_str().context("an id")?, list()?[1].as_str().context("an attribute")?)
                    }
                };
                json!(self.attribute(id, attribute)?)
            }
            "Fn::Join" => {
                let parts = value(&list()?[1])?;
                let parts = parts.as_array().context("Fn::Join takes a list")?;
                let parts = parts.iter().map(text_of).collect::<Result<Vec<_>>>()?;
                json!(parts.join(list()?[0].as_str().context("a separator")?))
            }
            "Fn::Split" => {
                let text = text_of(&value(&list()?[1])?)?;
                json!(text.split(list()?[0].as_str().context("a separator")?).collect::<Vec<_>>())
            }
            "Fn::Select" => {
                let index: usize = text_of(&list()?[0])?.parse()?;
                value(&list()?[1])?.get(index).cloned().context("Fn::Select beyond the list")?
            }
            "Fn::GetAZs" => json!(["a", "b", "c"].map(|zone| format!("{}{zone}", self.deployment.region))),
            "Fn::Cidr" => json!(["10.20.0.0/20", "10.20.16.0/20", "10.20.32.0/20", "10.20.48.0/20"]),
            other => bail!("{other} is not evaluated"),
        }))
    }

    fn reference(&self, name: &str) -> Result<Option<Value>> {
        let pseudo = match name {
            "AWS::NoValue" => return Ok(None),
            "AWS::Region" => Some(self.deployment.region.clone()),
            "AWS::AccountId" => Some(ACCOUNT.into()),
            "AWS::Partition" => Some("aws".into()),
            "AWS::URLSuffix" => Some("amazonaws.com".into()),
            "AWS::StackName" => Some(self.deployment.stack.clone()),
            _ => None,
        };
        if let Some(text) = pseudo {
            return Ok(Some(json!(text)));
        }
        let Some(parameter) = self.template["Parameters"].get(name) else {
            return Ok(Some(json!(self.physical_id(name)?)));
        };
        let given = self.deployment.parameters.get(name).cloned();
        let text = given.map_or_else(|| text_of(&parameter["Default"]), Ok);
        let text = text.with_context(|| format!("parameter {name} has no value"))?;
        let kind = parameter["Type"].as_str().unwrap_or_default();
        let is_list = kind == "CommaDelimitedList" || kind.starts_with("List<");
        Ok(Some(if is_list { json!(text.split(',').collect::<Vec<_>>()) } else { json!(text) }))
    }

    /// `${Name}`, `${Name.Attribute}` and the names of the second argument; `${!Name}` stays.
    fn substitute(&self, argument: &Value) -> Result<String> {
        let (text, names) = match argument {
            Value::String(text) => (text.as_str(), None),
            _ => (argument[0].as_str().context("Fn::Sub takes a text")?, argument.get(1)),
        };
        let mut parts = text.split("${");
        let mut result = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').context("Fn::Sub lacks a brace")?;
            let known = names.and_then(|names| names.get(name));
            result += &match (known, name.strip_prefix('!'), name.split_once('.')) {
                (Some(value), _, _) => text_of(&self.evaluate(value)?.unwrap_or_default())?,
                (None, Some(literal), _) => format!("${{{literal}}}"),
                (None, None, Some((id, attribute))) => self.attribute(id, attribute)?,
                (None, None, None) => text_of(&self.reference(name)?.unwrap_or_default())?,
            };
            result += rest;
        }
        Ok(result)
    }

    /// The name that a resource has, or that CloudFormation gives it.
    fn physical_id(&self, id: &str) -> Result<String> {
        let resource =
            self.template["Resources"].get(id).with_context(|| format!("nothing is named {id}"))?;
        ensure!(self.is_created(resource)?, "{id} is not created, and is referred to");
        let kind = resource["Type"].as_str().unwrap_or_default();
        for name in ["FunctionName", "QueueName", "TableName", "LogGroupName"] {
            // A version and an alias name the function to which they belong.
            let is_own = !["AWS::Lambda::Version", "AWS::Lambda::Alias"].contains(&kind);
            if let Some(named) = resource["Properties"].get(name).filter(|_| is_own) {
                return text_of(&self.evaluate(named)?.unwrap_or_default());
            }
        }
        let of =
            |property: &str| text_of(&self.evaluate(&resource["Properties"][property])?.unwrap_or_default());
        Ok(match kind {
            "AWS::Lambda::Alias" => {
                let (region, function) = (&self.deployment.region, of("FunctionName")?);
                format!("arn:aws:lambda:{region}:{ACCOUNT}:function:{function}:{}", of("Name")?)
            }
            "AWS::IAM::ManagedPolicy" => format!("arn:aws:iam::{ACCOUNT}:policy/{}", self.generated(id)),
            "AWS::ApiGatewayV2::Api" => "a1b2c3d4e5".into(),
            "AWS::EC2::Subnet" => "subnet-0123456789abcdef0".into(),
            "AWS::EC2::SecurityGroup" => "sg-0123456789abcdef0".into(),
            "AWS::EC2::VPC" => "vpc-0123456789abcdef0".into(),
            "AWS::SecretsManager::Secret" => {
                format!("arn:aws:secretsmanager:{}:{ACCOUNT}:secret:{id}-AbCdEf", self.deployment.region)
            }
            _ => self.generated(id),
        })
    }

    /// CloudFormation's own name: at most 64 characters.
    fn generated(&self, id: &str) -> String {
        let stack: String = self.deployment.stack.chars().take(24).collect();
        let id: String = id.chars().take(24).collect();
        format!("{stack}-{id}-ABCDEFGHIJKL")
    }

    fn attribute(&self, id: &str, attribute: &str) -> Result<String> {
        let (region, name) = (&self.deployment.region, self.physical_id(id)?);
        let kind = self.template["Resources"][id]["Type"].as_str().unwrap_or_default();
        Ok(match (kind, attribute) {
            ("AWS::Lambda::Function", "Arn") => format!("arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"),
            ("AWS::Lambda::Version", "Version") => "1".into(),
            ("AWS::IAM::Role", "Arn") => format!("arn:aws:iam::{ACCOUNT}:role/{name}"),
            ("AWS::SQS::Queue", "Arn") => format!("arn:aws:sqs:{region}:{ACCOUNT}:{name}"),
            ("AWS::SQS::Queue", "QueueName") => name,
            ("AWS::DynamoDB::Table", "Arn") => format!("arn:aws:dynamodb:{region}:{ACCOUNT}:table/{name}"),
            ("AWS::DynamoDB::Table", "StreamArn") => {
                format!("arn:aws:dynamodb:{region}:{ACCOUNT}:table/{name}/stream/2026-11-28T12:00:00.000")
            }
            ("AWS::Logs::LogGroup", "Arn") => format!("arn:aws:logs:{region}:{ACCOUNT}:log-group:{name}:*"),
            ("AWS::ApiGatewayV2::Api", "ApiEndpoint") => {
                format!("https://{name}.execute-api.{region}.amazonaws.com")
            }
            (_, attribute) => format!("{name}.{attribute}"),
        })
    }
}

fn only_entry(value: &Value) -> Option<(&str, &Value)> {
    let entries = value.as_object().filter(|entries| entries.len() == 1)?;
    entries.iter().next().map(|(key, value)| (key.as_str(), value))
}

fn text_of(value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Array(list) => list.iter().map(text_of).collect::<Result<Vec<_>>>()?.join(","),
        other => bail!("{other} is no text"),
    })
}

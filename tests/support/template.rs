//! Parses template.yaml, and adapts it to the emulator.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The main region of a deployment in a test.
pub const MAIN: &str = "us-east-1";
/// Its standby region.
pub const STANDBY: &str = "eu-west-1";

/// A built template that the emulator accepts.
#[derive(Debug)]
pub struct Adapted {
    pub text: String,
    /// Names of the resources that the emulator does not support.
    pub left_out: Vec<String>,
}

/// Resources of the template by name, each with its text.
pub fn resources(template: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for block in blocks(template) {
        if let Some(name) = block.name {
            found.insert(name, block.text);
        }
    }
    found
}

/// Parameters of the template by name, each with its text.
pub fn parameters(template: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in template.lines().skip_while(|line| *line != "Parameters:").skip(1) {
        if line.starts_with(|first: char| first.is_ascii_alphabetic() || first == '#') {
            break;
        }
        let begins = line.strip_prefix("  ").filter(|rest| rest.starts_with(char::is_alphabetic));
        if let Some(begins) = begins.and_then(|rest| rest.strip_suffix(':')) {
            begins.clone_into(&mut name);
        }
        found.entry(name.clone()).or_default().extend([line, "\n"]);
    }
    found
}

/// The template's parameters and rules, with one resource that does nothing.
pub fn without_resources(template: &str) -> String {
    let asked = blocks(template)
        .into_iter()
        .filter(|block| ["Parameters", "Rules"].contains(&block.section.as_str()));
    let text: String = asked.map(|block| block.text).collect();
    format!(
        "AWSTemplateFormatVersion: '2010-09-09'\n{text}\nResources:\n  Nothing:\n    Type: AWS::CloudFormation::WaitConditionHandle\n"
    )
}

/// Names of functions' variables in `text`.
pub fn variables(text: &str) -> BTreeSet<&str> {
    words(text, "FAIRDROP_", |one| one.is_ascii_uppercase() || one == '_')
}

/// The pieces of `text` that begin with `start` and continue as long as `is_part` accepts.
pub fn words<'a>(text: &'a str, start: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<&'a str> {
    let places = text.match_indices(start).map(|(place, _)| place);
    places
        .filter_map(|place| {
            let rest = text.get(place..)?;
            rest.get(..rest.find(|one| !is_part(one)).unwrap_or(rest.len()))
        })
        .collect()
}

/// `template` as ministack 1.5 accepts it in `region`.
///
/// ministack supports neither alarms on an expression nor route responses: they are left out. In a condition it takes
/// `AWS::Region` literally.
pub fn adapt(template: &str, region: &str) -> Adapted {
    let mut adapted = Adapted { text: String::new(), left_out: Vec::new() };
    for block in blocks(template) {
        let is_expression =
            block.text.contains("Type: AWS::CloudWatch::Alarm") && block.text.contains("\n      Metrics:");
        let is_route_response = block.text.contains("Type: AWS::ApiGatewayV2::RouteResponse");
        match block.name {
            Some(name) if is_expression || is_route_response => adapted.left_out.push(name),
            _ if block.section == "Conditions" => {
                let of_region = block.text.replace("!Ref AWS::Region", region);
                adapted.text += &of_region.replace("Ref: AWS::Region", region);
            }
            _ => adapted.text += &block.text,
        }
    }
    adapted
}

#[derive(Debug)]
struct Block {
    section: String,
    /// Set for a resource only.
    name: Option<String>,
    text: String,
}

/// The template in blocks: one for each resource, and one for each line outside of Resources.
fn blocks(template: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut section = String::new();
    for line in template.lines() {
        let is_top = line.starts_with(|first: char| first.is_ascii_alphabetic());
        if is_top {
            section = line.split(':').next().unwrap_or_default().to_owned();
        }
        let name = line.strip_prefix("  ").and_then(|rest| rest.strip_suffix(':'));
        let name =
            name.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let begins = is_top || section != "Resources" || name.is_some() || blocks.is_empty();
        if begins {
            let name = name.filter(|_| section == "Resources").map(str::to_owned);
            blocks.push(Block { section: section.clone(), name, text: String::new() });
        }
        if let Some(last) = blocks.last_mut() {
            last.text.push_str(line);
            last.text.push('\n');
        }
    }
    blocks
}

/// The project's template.
pub fn read() -> Result<String> {
    Ok(std::fs::read_to_string(local::system::process::workspace().join("template.yaml"))?)
}

/// Fills `folder` as `sam build` does, with the functions that the tests of this machine run.
pub fn build(folder: &Path) -> Result<()> {
    let mut template = read()?;
    let binaries = local::system::process::binaries()?;
    for (name, text) in resources(&template) {
        let Some(at) = text.split("CodeUri: functions/").nth(1) else { continue };
        let function = at.split('/').next().context("a CodeUri without a closing slash")?;
        std::fs::create_dir_all(folder.join(&name))?;
        std::fs::copy(binaries.join(function), folder.join(&name).join("bootstrap"))?;
        template = template.replace(&format!("CodeUri: functions/{function}/"), &format!("CodeUri: {name}"));
    }
    std::fs::write(folder.join("template.yaml"), template)?;
    Ok(())
}

//! The template against the code: variables, rights, alarms, events.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tests::template::{self, variables};

fn workspace() -> PathBuf {
    local::system::process::workspace()
}

/// The code below `folder`, without its unit tests.
pub(crate) fn sources(folder: &Path) -> String {
    all_sources(folder, true)
}

/// All Rust sources below `folder`. With `only_code`, each file ends at `#[cfg(test)]`.
fn all_sources(folder: &Path, only_code: bool) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &all_sources(&path, only_code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(path).unwrap();
            let code = source.split("#[cfg(test)]").next().unwrap_or_default();
            text += if only_code { code } else { &source };
        }
    }
    text
}

/// Variables that the code reads and the template does not set, and why.
const NOT_SET: [(&str, &str); 8] = [
    ("FAIRDROP_LEDGER_PASSWORD", "on AWS there is no password: the functions log in with IAM"),
    ("FAIRDROP_LEDGER_REGION", "Ledger::of_main sets it from FAIRDROP_MAIN_REGION"),
    ("FAIRDROP_TASK_IDLE_AFTER_MS", "the default suits the worker's time-out"),
    ("FAIRDROP_DRILL_POLL_SECONDS", "for tests"),
    ("FAIRDROP_OBSERVE_INTERVAL_MS", "for tests"),
    ("FAIRDROP_TOKEN_KEYS_INTERVAL_MS", "for tests"),
    ("FAIRDROP_SAMPLE_SECONDS", "for tests"),
    ("FAIRDROP_LAG_RUN_SECONDS", "for tests"),
];

#[test]
fn every_variable_that_is_read_is_set_and_every_one_that_is_set_is_read() {
    let template = template::read().unwrap();
    let code = sources(&workspace().join("functions")) + &sources(&workspace().join("shared"));
    let (set, read) = (variables(&template), variables(&code));
    let not_set: BTreeSet<&str> = NOT_SET.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&&str> =
        read.iter().filter(|name| !set.contains(*name) && !not_set.contains(*name)).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "read by the code, and not set by the template");
    let unknown: Vec<&&str> = set.iter().filter(|name| !read.contains(*name)).collect();
    assert_eq!(unknown, Vec::<&&str>::new(), "set by the template, and not read by the code");
    let documented = std::fs::read_to_string(workspace().join("docs/LIMITS.md")).unwrap();
    let documented = variables(&documented);
    let silent: Vec<&&str> = read.iter().filter(|name| !documented.contains(*name)).collect();
    assert_eq!(silent, Vec::<&&str>::new(), "read by the code, and not in docs/LIMITS.md");
}

#[test]
fn functions_of_main_are_disabled_in_the_standby() {
    let template = template::read().unwrap();
    let mut checked = 0;
    for (name, text) in template::resources(&template) {
        if text.contains("Type: AWS::Serverless::Function\n    Condition: MayBeMain") {
            let rule = "ReservedConcurrentExecutions: !If [IsMain, !If [Reserves, ";
            assert!(text.contains(rule) && text.contains(", !Ref AWS::NoValue], 0]\n"), "{name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 4);
}

#[test]
fn every_alarm_has_a_runbook_heading_and_a_reason_for_missing_data() {
    let template = template::read().unwrap();
    let alarms: BTreeMap<String, String> = template::resources(&template)
        .into_iter()
        .filter(|(_, text)| text.contains("Type: AWS::CloudWatch::Alarm"))
        .collect();
    assert!(alarms.len() > 20, "{}", alarms.len());
    for (name, text) in alarms {
        assert!(
            text.contains("TreatMissingData: ") && text.contains("      # "),
            "{name} treats missing data without a reason"
        );
        let slug = text
            .split("AlarmName: !Sub ${AWS::StackName}-")
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .unwrap();
        let place =
            ["${RunbookUrl}/", "docs/runbook/"].into_iter().find_map(|begin| text.split(begin).nth(1));
        let page = place.and_then(|rest| rest.split_whitespace().next()).unwrap();
        let page = std::fs::read_to_string(workspace().join("docs/runbook").join(page)).unwrap();
        let is_there =
            page.lines().any(|line| line == format!("## {slug}") || line == format!("## Alarm: {slug}"));
        assert!(is_there, "{name}: its page has no heading {slug}");
    }
}

/// Lambda takes a metric's line, which has no level, for INFO, and drops it above that level.
/// `erase` answers until when they may have an erased buyer's name.
#[test]
fn erase_knows_how_long_dead_letters_snapshots_and_live_connections_are_kept() {
    let read = |page: &str| std::fs::read_to_string(workspace().join(page)).unwrap();
    let letters = template::resources(&template::read().unwrap()).remove("DeadLetters").unwrap();
    let kept = format!("MessageRetentionPeriod: {}\n", drop_admin::DEAD_LETTERS.as_secs());
    assert!(letters.contains(&kept), "{letters}");
    let days = drop_admin::REDIS_SNAPSHOTS.as_secs() / 86_400;
    let redis = template::resources(&read("stores.yaml")).remove("Redis").unwrap();
    let kept = format!("SnapshotRetentionLimit: !If [JoinsGlobal, !Ref AWS::NoValue, {days}]\n");
    assert!(redis.contains(&kept), "{redis}");
    let registry = read("shared/live/src/registry.rs").replace('_', "");
    let life = format!("MAXLIFESECONDS: u32 = {};", drop_admin::LIVE_CONNECTION.as_secs());
    assert!(registry.contains(&life), "{life}");
}

#[test]
fn no_parameter_switches_a_metric_off() {
    let template = template::read().unwrap();
    let levels: Vec<&str> = template
        .lines()
        .filter_map(|line| line.split_once("ApplicationLogLevel: "))
        .map(|(_, level)| level)
        .collect();
    assert_eq!(levels, ["TRACE"], "Lambda must let every line of every function pass");
    assert!(template.contains("        FAIRDROP_LOG_LEVEL: !Ref LogLevel\n"));
}

/// EC2 refuses other characters in the descriptions of security groups and of their rules, and no linter reports it.
#[test]
fn descriptions_of_security_groups_have_only_characters_that_ec2_accepts() {
    let is_accepted = |one: char| one.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(one);
    let mut checked = 0;
    for file in ["template.yaml", "stores.yaml"] {
        let template = std::fs::read_to_string(workspace().join(file)).unwrap();
        let resources = template::resources(&template).into_iter();
        for (name, text) in resources.filter(|(_, text)| text.contains("Type: AWS::EC2::SecurityGroup")) {
            for line in text.lines().map(|line| line.trim().trim_start_matches("- ")) {
                let Some((key, described)) = line.split_once(": ") else { continue };
                if ["GroupDescription", "Description"].contains(&key) {
                    let is_right = described.len() <= 255 && described.chars().all(is_accepted);
                    assert!(is_right, "{file}: {name}: {described}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 11, "{checked}");
}

#[test]
fn every_sample_event_is_used_by_a_test() {
    let tests =
        all_sources(&workspace().join("tests"), false) + &all_sources(&workspace().join("functions"), false);
    for entry in std::fs::read_dir(workspace().join("events")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".json") else { continue };
        let (function, kind) = stem.split_once('.').unwrap();
        // A test may read all samples of a function.
        let is_used = tests.contains(&name)
            || tests.contains(&format!("contains(\"/{function}.\")"))
            || (tests.contains(&format!("{function}.{{")) && tests.contains(&format!("\"{kind}\"")));
        assert!(is_used, "events/{name} is in no test");
    }
}

/// Whether local/artefacts.py accepts the functions in `folder`, and its output.
fn artefacts(folder: &Path) -> (bool, String) {
    let script = workspace().join("local/artefacts.py");
    let output = std::process::Command::new("python3").arg(script).arg(folder).output().unwrap();
    let printed =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), printed)
}

/// `make sam-build` ends with this script: no function may need a newer glibc than Amazon Linux 2023 has, and
/// order-intake must be small.
#[test]
fn a_function_that_needs_a_newer_glibc_or_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, content: &[u8]| {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("bootstrap"), content).unwrap();
    };
    let noise = |bytes: usize| {
        let random = (0..bytes).map(|_| rand::random::<u8>());
        random.chain(*b"\0GLIBC_2.34\0").collect::<Vec<u8>>()
    };
    assert!(!artefacts(folder.path()).0, "an empty folder");
    build("OrderIntakeFunction", &noise(4_900_000));
    build("DropAdminFunction", &noise(5_100_000));
    let (is_right, printed) = artefacts(folder.path());
    assert!(is_right && printed.contains("4.90") && printed.contains("2.34"), "{printed}");
    build("DropAdminFunction", b"GLIBC_2.17 GLIBC_2.35 GLIBC_2.9");
    let (is_right, printed) = artefacts(folder.path());
    assert!(!is_right && printed.contains("DropAdminFunction needs glibc 2.35"), "{printed}");
    build("DropAdminFunction", b"no program");
    assert!(!artefacts(folder.path()).0);
    build("DropAdminFunction", b"GLIBC_2.17");
    build("OrderIntakeFunction", &noise(5_100_000));
    let (is_right, printed) = artefacts(folder.path());
    assert!(!is_right && printed.contains("OrderIntakeFunction has 5,1"), "{printed}");
    if let Some(built) = std::env::var_os("FAIRDROP_SAM_BUILD") {
        let (is_right, printed) = artefacts(Path::new(&built));
        println!("{printed}");
        assert!(is_right, "{printed}");
    }
}

/// `sam validate` does not test this. CloudFormation refuses a template that SAM cannot translate, whatever the
/// conditions.
#[test]
fn sam_translates_the_template_with_every_option() {
    let resources = tests::expanded::translated()["template"]["Resources"].as_object().unwrap();
    let versions = resources.values().filter(|resource| resource["Type"] == "AWS::Lambda::Version");
    let versions: Vec<&Value> = versions.map(|version| &version["Properties"]).collect();
    assert!(!versions.is_empty());
    assert!(
        versions.iter().all(|version| version["Description"] == json!({ "Ref": "Revision" })),
        "{versions:?}"
    );
    // Lambda publishes a version only if the function itself has changed, so its own description must change, too.
    let described = resources["OrderIntakeFunction"]["Properties"]["Description"]["Fn::Sub"].as_str();
    assert!(described.unwrap_or_default().contains("${Revision}"), "{described:?}");
    let target = &resources["OrderIntakeIntegration"]["Properties"]["IntegrationUri"];
    assert_eq!(target, &json!({ "Ref": "OrderIntakeFunctionAliaslive" }));
}

/// Test programs and their modules are listed by hand: a file that is not listed is not compiled, and its tests
/// never run.
#[test]
fn every_test_file_is_compiled() {
    let listed = std::fs::read_to_string(workspace().join("tests/Cargo.toml")).unwrap();
    let mut programs = 0;
    for entry in std::fs::read_dir(workspace().join("tests")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(!name.ends_with(".rs"), "{name} belongs into the folder of a test program");
        let Ok(main) = std::fs::read_to_string(folder.join("main.rs")) else { continue };
        programs += 1;
        assert!(listed.contains(&format!("path = \"{name}/main.rs\"")), "{name} is in no [[test]]");
        for file in std::fs::read_dir(&folder).unwrap() {
            let file = file.unwrap().path();
            let module = file.file_stem().unwrap().to_str().unwrap();
            let is_module =
                module != "main" && (file.extension().is_some_and(|end| end == "rs") || file.is_dir());
            let is_declared = main.contains(&format!("mod {module};"));
            assert!(!is_module || is_declared, "{name}/main.rs does not declare {module}");
        }
    }
    assert!(programs > 5, "{programs} programs");
}

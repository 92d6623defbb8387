//! CloudFormation refuses a missing or invalid parameter by name, before it creates anything.

use crate::cloud::{Cloud, parameters};
use local::aws::identity::IdentityProvider;
use local::system::folder::WorkFolder;
use std::collections::BTreeSet;
use tests::parameters::{CHECKED_ELSEWHERE, WRONG, WRONG_TOGETHER};
use tests::template::{self, MAIN, STANDBY};

const EDGE: &str = "ap-southeast-1";

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_parameter_is_refused_by_name() {
    let folder = WorkFolder::new().unwrap();
    let cloud = Cloud::start(folder.path()).await.unwrap();
    let template = template::read().unwrap();
    let jwks = IdentityProvider::new().unwrap().jwks();
    let questions = template::without_resources(&template);
    for region in [MAIN, STANDBY, EDGE] {
        let right = parameters(region, &jwks);
        cloud.ask(region, "right", &questions, &right).await.unwrap();
    }

    let known: BTreeSet<&str> =
        WRONG.iter().map(|(name, _)| *name).chain(CHECKED_ELSEWHERE.iter().map(|(name, _)| *name)).collect();
    let declared = template::parameters(&template);
    let names: BTreeSet<&str> = declared.keys().map(String::as_str).collect();
    assert_eq!(names, known, "tests/support/parameters.rs must list every parameter, and no other");

    let right = parameters(MAIN, &jwks);
    let too_long = "x".repeat(3_001);
    let too_long = [("SnapshotPolicy", too_long.as_str()), ("TokenJwks", too_long.as_str())];
    let each = WRONG.iter().flat_map(|(name, values)| values.iter().map(move |value| (*name, *value)));
    for (name, wrong) in each.chain(too_long) {
        let mut parameters = right.clone();
        parameters.insert(name, wrong.to_owned());
        let refusal = cloud.ask(MAIN, "wrong", &questions, &parameters).await;
        let refusal = refusal.expect_err(&format!("{name} may be {wrong:?}")).to_string();
        assert!(refusal.contains(name), "{name} = {wrong:?}: {refusal}");
    }
    for (name, text) in declared.iter().filter(|(_, text)| !text.contains("    Default:")) {
        let mut parameters = right.clone();
        assert!(parameters.remove(name.as_str()).is_some(), "{name} is missing in this test: {text}");
        let refusal = cloud.ask(MAIN, "wrong", &questions, &parameters).await.unwrap_err().to_string();
        assert!(refusal.contains(name), "{name} is missing: {refusal}");
    }
    for (region, with, error) in WRONG_TOGETHER {
        let mut parameters = parameters(region, &jwks);
        parameters.extend(with.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let refusal = cloud.ask(region, "wrong", &questions, &parameters).await;
        let refusal = refusal.expect_err(&format!("{with:?} in {region}")).to_string();
        assert!(refusal.contains(error), "{with:?} in {region}: {refusal}");
    }
}

/// The same through the SAM CLI, as an operator uses it.
#[tokio::test(flavor = "multi_thread")]
async fn the_sam_cli_names_an_invalid_parameter() {
    let folder = WorkFolder::new().unwrap();
    template::build(folder.path()).unwrap();
    let cloud = Cloud::start(folder.path()).await.unwrap();
    let jwks = IdentityProvider::new().unwrap().jwks();
    for (name, wrong) in [("MainRedisEndpoint", "rediss://user:secret@host:6379"), ("LedgerEndpoint", "")] {
        let mut parameters = parameters(MAIN, &jwks);
        parameters.insert(name, wrong.to_owned());
        let error = cloud.deploy(folder.path(), MAIN, &parameters).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    assert_eq!(cloud.functions(MAIN).await.unwrap(), std::collections::BTreeMap::new());
}

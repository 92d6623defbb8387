//! The schemas of the events for the shop, generated from the code's types. `events/out/` holds them: after an intended
//! change, `FAIRDROP_UPDATE=1` writes the files again. A change of a member needs a new version.

use local::system::process::workspace;
use std::collections::BTreeSet;

#[test]
fn the_schemas_of_events_are_generated_from_the_code() {
    let folder = workspace().join("events/out");
    let schemas = shop_events::event::schemas();
    for (name, schema) in &schemas {
        let text = serde_json::to_string_pretty(schema).unwrap() + "\n";
        if std::env::var_os("FAIRDROP_UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), &text).unwrap();
        }
        let held = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            held == text,
            "events/out/{name} differs from the code; if the change is intended, run with FAIRDROP_UPDATE=1"
        );
    }
    let files = std::fs::read_dir(folder).unwrap();
    let files: BTreeSet<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(
        files,
        schemas.into_iter().map(|(name, _)| name).collect(),
        "events/out/ has a file without a type"
    );
}

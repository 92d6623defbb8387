//! `make demo` and `make up` build some packages of the workspace. Their dependencies must have the features of the whole
//! workspace: otherwise `make test` compiles them again, and the next demo, too.

use local::system::process::workspace;
use std::collections::BTreeSet;
use std::process::Command;

/// A line for each dependency with its version and its features.
fn dependencies(packages: &[String]) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace()).args(["tree", "--locked", "--offline", "--edges", "normal,build"]);
    let output = command.args(["--prefix", "none", "--format", "{p} [{f}]"]).args(packages).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // A package that was printed before has a mark.
    text.lines()
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// The packages that `target` builds, as arguments of cargo.
fn packages_of(target: &str) -> Vec<String> {
    let mut command = Command::new("make");
    // A test run by make must not have its options.
    command.env_remove("MAKEFLAGS").current_dir(workspace());
    let output = command.args(["--dry-run", target]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let build = text.lines().find(|line| line.starts_with("cargo build")).unwrap();
    build.split_whitespace().skip_while(|word| *word != "-p").map(str::to_owned).collect()
}

#[test]
fn dependencies_of_a_demo_have_the_features_of_the_whole_workspace() {
    let all = dependencies(&["--workspace".to_owned()]);
    for target in ["demo", "up"] {
        let packages = packages_of(target);
        assert!(packages.len() > 10, "{packages:?}");
        let others: Vec<String> = dependencies(&packages).difference(&all).cloned().collect();
        assert!(others.is_empty(), "`make {target}`: local/workspace-hack lacks features of {others:#?}");
    }
}

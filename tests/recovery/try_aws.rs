//! `make try-aws` against moto: it answers what the emulator can answer, and leaves nothing in the account.

use anyhow::{Context, Result, ensure};
use local::aws::emulators::Moto;
use local::system::folder::WorkFolder;
use local::system::process::{tool, workspace};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const CLEAN: &str = "nothing was left\n";

/// The script, with `arguments`, in moto's account.
fn script(moto: &Moto, arguments: &[&str]) -> Command {
    let mut command = Command::new(tool("python"));
    command.arg(workspace().join("local/try_aws")).args(arguments);
    command.envs(Moto::environment_at(&moto.url())).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What `--clean` prints.
async fn cleaned(moto: &Moto) -> Result<String> {
    let output = script(moto, &["--clean"]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A run that has created things: the fact about Cognito is answered, and others still wait.
async fn waiting(moto: &Moto) -> Result<Child> {
    let mut running = script(moto, &["--yes", "--limit-minutes", "10"]).spawn()?;
    let stderr = running.stderr.take().context("a pipe")?;
    let mut lines = BufReader::new(stderr).lines();
    while let Some(line) = lines.next_line().await? {
        if line.contains("cognito-access-token: ") {
            // The pipe stays open, or the script could not print any more.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(running);
        }
    }
    anyhow::bail!("the run ended early")
}

fn signal(running: &Child, name: &str) -> Result<()> {
    let id = running.id().context("it has ended")?.to_string();
    ensure!(std::process::Command::new("kill").args([name, &id]).status()?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_answers_a_row_for_each_documented_fact_and_leaves_nothing() -> Result<()> {
    let folder = WorkFolder::new()?;
    let moto = Moto::start(folder.path(), &[]).await?;
    let refused = script(&moto, &[]).output().await?;
    ensure!(!refused.status.success(), "without --yes and without a terminal nothing may be created");

    let file = folder.path().join("rows.json");
    let arguments = ["--yes", "--limit-minutes", "0.2", "--json", file.to_str().context("a path")?];
    let output = script(&moto, &arguments).output().await?;
    let table = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{table}\n{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(file)?)?;
    assert_eq!(rows.len(), 10, "{rows:#?}");

    let facts = std::fs::read_to_string(workspace().join("docs/AWS_FACTS.md"))?;
    let documented: BTreeSet<&str> =
        facts.lines().filter_map(|line| line.strip_prefix("| **")?.split("**").next()).collect();
    let answered: BTreeSet<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(answered, documented, "rows of the table, and ids in docs/AWS_FACTS.md");
    for row in &rows {
        assert!(table.contains(&format!("| `{}` | ", row["id"].as_str().unwrap_or_default())), "{table}");
    }
    let cognito = rows.iter().find(|row| row["id"] == "cognito-access-token").context("its row")?;
    assert_eq!(cognito["answer"], "as assumed", "{cognito}");
    assert!(table.contains("those of an emulator"), "{table}");
    assert_eq!(cleaned(&moto).await?, CLEAN);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_cleans_up_and_a_killed_one_is_cleaned_up_after() -> Result<()> {
    let folder = WorkFolder::new()?;
    let moto = Moto::start(folder.path(), &[]).await?;
    let interrupted = waiting(&moto).await?;
    signal(&interrupted, "-INT")?;
    let output = interrupted.wait_with_output().await?;
    let table = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && table.contains("`cognito-access-token` | as assumed"), "{table}");
    assert_eq!(cleaned(&moto).await?, CLEAN, "after an interrupt");

    let mut killed = waiting(&moto).await?;
    killed.kill().await?;
    let left = cleaned(&moto).await?;
    assert!(left.contains("role fairdrop-try-") && left.contains("user pool fairdrop-try-"), "{left}");
    assert_eq!(cleaned(&moto).await?, CLEAN, "after --clean");
    Ok(())
}

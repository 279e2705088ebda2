//! A small soak, and soaks of systems with planted faults: each must be found.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use multidc_tests::node::binary;
use serde_json::Value;
use tokio::{process::Command, sync::Semaphore};

/// Nine processes on two cores are enough for one test at a time.
static TURN: Semaphore = Semaphore::const_new(1);

/// Runs `multidc-soak`; its exit code and its figures.
async fn soak(args: &[&str]) -> anyhow::Result<(i32, Value, String)> {
    let _turn = TURN.acquire().await?;
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("soak.json");
    let mut process = Command::new(binary("multidc-soak")?);
    process.args(args).arg("--json").arg(&json).stdin(Stdio::null()).kill_on_drop(true);
    let ran = tokio::time::timeout(Duration::from_secs(150), process.output()).await;
    let output = ran.context("the soak does not end")??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let figures = read(&json).with_context(|| said.clone())?;
    Ok((output.status.code().unwrap_or(-1), figures, said))
}

fn read(path: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

async fn clean(args: &[&str]) -> anyhow::Result<()> {
    let (code, figures, said) = soak(args).await?;
    ensure!(code == 0 && figures["clean"] == true, "exit code {code}:\n{said}");
    let count = |name: &str| figures[name].as_u64().unwrap_or(0);
    ensure!(count("confirmed") > 500, "hardly anything was checked: {figures}");
    ensure!(figures["faults"].as_array().is_some_and(|faults| !faults.is_empty()), "nothing was done: {figures}");
    Ok(())
}

#[tokio::test]
async fn r1_r2_r3_a4_g1_hold_in_a_small_soak_on_nats() -> anyhow::Result<()> {
    clean(&["--minutes", "0.4", "--every-secs", "7", "--rate", "300", "--store-servers", "1", "--seed", "4"]).await
}

/// One node of each datacenter has a fault; the run must end with 1 and name what each breaks.
#[tokio::test]
async fn planted_faults_in_messages_are_found() -> anyhow::Result<()> {
    let plants = ["twice@0", "lose@1", "drop@2", "reorder@3", "lie@4", "split@5"];
    // Two activations at once count only 8 s after the last change of members or tables.
    let mut args = vec!["--minutes", "0.4", "--rate", "400", "--control-plane", "sqlite", "--nodes", "2", "--calm"];
    args.extend(plants.iter().flat_map(|plant| ["--plant", plant]));
    let (code, figures, said) = soak(&args).await?;
    ensure!(code == 1 && figures["clean"] == false, "exit code {code}:\n{said}");
    let broken = &figures["violation_counts"];
    for rule in ["R1", "R2", "R3", "A4", "G1"] {
        ensure!(broken[rule].as_u64().is_some_and(|count| count > 0), "{rule} was not found broken: {broken}\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn planted_leaks_are_found() -> anyhow::Result<()> {
    let plants = ["memory@0", "files@1", "tasks@2"];
    let mut args = vec!["--minutes", "0.6", "--rate", "100", "--control-plane", "sqlite", "--nodes", "1", "--calm"];
    args.extend(plants.iter().flat_map(|plant| ["--plant", plant]));
    let (code, figures, said) = soak(&args).await?;
    ensure!(code == 1, "exit code {code}:\n{said}");
    let broken = &figures["violation_counts"];
    for rule in ["memory", "files", "tasks"] {
        ensure!(broken[rule] == 1, "{rule}: one node leaks: {broken}\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_cannot_be_carried_out_says_why() -> anyhow::Result<()> {
    let output = Command::new(binary("multidc-soak")?).args(["--load", "1.5"]).output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2) && said.contains("--load 1.5: must be above 0, up to 1"), "{said}");
    Ok(())
}

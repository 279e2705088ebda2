//! Each benchmark that takes minutes, in small: that it runs to its end and tells its figures. Nothing is asked of times.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use multidc_tests::node::binary;
use tokio::process::Command;

/// Runs `multidc-bench`; what it said.
async fn bench(args: &[&str]) -> anyhow::Result<String> {
    let mut process = Command::new(binary("multidc-bench")?);
    process.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let ran = tokio::time::timeout(Duration::from_secs(120), process.output()).await;
    let output = ran.context("the benchmark does not end")??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}:\n{said}", output.status);
    Ok(said)
}

#[tokio::test]
async fn g4_failover_is_measured_in_small() -> anyhow::Result<()> {
    // Not with `--fast`: on a machine that is busy enough a lease of 2 s ends by itself, and the names move too early.
    let said = bench(&["failover", "--runs", "1", "--owned", "3", "--seed", "5"]).await?;
    ensure!(said.contains("seed 5") && said.contains("first of 3 global names"), "{said}");
    Ok(())
}

#[tokio::test]
async fn g5_a_drain_is_measured_in_small_and_its_log_is_in_order() -> anyhow::Result<()> {
    let said = bench(&["drain", "--grains", "20", "--names", "20", "--clients", "2"]).await?;
    ensure!(said.matches("the log is in order").count() == 2, "{said}");
    Ok(())
}

#[tokio::test]
async fn g2_a_steady_system_is_measured_in_small() -> anyhow::Result<()> {
    let small = ["--minutes", "0.02", "--dcs", "2", "--nodes", "1", "--held", "2", "--near", "--quiet-secs", "1"];
    let said = bench(&[&["steady"], &small[..]].concat()).await?;
    ensure!(said.contains("answers, failures {}"), "{said}");
    Ok(())
}

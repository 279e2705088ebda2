//! `cargo xtask soak`: the driver of a soak, and, started by it as `multidc-soak node SPEC`, each of its nodes.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use multidc_tests::soak::{driver, node, options::Options};

#[tokio::main]
async fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let ended = match words.next().as_deref() {
        Some("node") => run_node(words.next().unwrap_or_default()).await.map(|()| true),
        _ => drive(Options::parse()).await,
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run_node(spec: String) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MULTIDC_NODE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    node::run(serde_json::from_str(&spec).context("a node is started by its driver, with its description")?).await
}

/// Runs until the end, or until Ctrl-C; either way nothing is left behind.
async fn drive(options: Options) -> anyhow::Result<bool> {
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ran = driver::run(options) => ran,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            anyhow::bail!("interrupted; everything is stopped")
        }
        _ = ended.recv() => anyhow::bail!("ended; everything is stopped"),
    }
}

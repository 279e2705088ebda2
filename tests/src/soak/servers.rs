//! The store of a run, and the operator's tool that acts on it.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::options::Plane;
use crate::{node::binary, servers::Store};

/// Starts the store.
///
/// # Errors
///
/// No server, or it does not start.
pub async fn store(plane: Plane, servers: usize) -> anyhow::Result<Store> {
    match plane {
        Plane::Nats => Store::nats(servers).await,
        Plane::Etcd => Store::etcd(servers).await,
        Plane::Sqlite => Store::sqlite().await,
    }
}

/// Runs `dcctl` with these arguments, at most 20 s.
///
/// # Errors
///
/// It fails, with what it said.
pub async fn dcctl(args: &[&str]) -> anyhow::Result<()> {
    let mut process = Command::new(binary("dcctl")?);
    process.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let ran = tokio::time::timeout(Duration::from_secs(20), process.output()).await;
    let output = ran.with_context(|| format!("dcctl {args:?} does not end"))?.context("running dcctl")?;
    ensure!(output.status.success(), "dcctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Makes an authority and a certificate for each datacenter in `dir`.
///
/// # Errors
///
/// `dcctl` fails.
pub async fn certificates(dir: &Path, dcs: usize) -> anyhow::Result<()> {
    let out = dir.to_string_lossy();
    let names: Vec<String> = (1..=dcs).map(|dc| format!("dc-{dc}")).collect();
    let mut args = vec!["certs", "dev", "--system", "soak", "--days", "1", "--force", "--out", &out];
    for name in &names {
        args.extend(["--dc", name]);
    }
    dcctl(&args).await
}

/// Replaces the files that nodes read by new ones of another authority, without a moment at which one node refuses
/// another: first both authorities are trusted, then certificates are replaced, then the old one is trusted no more.
///
/// # Errors
///
/// `dcctl` fails, or a file cannot be written.
pub async fn rotate(dir: &Path, dcs: usize, step: Duration) -> anyhow::Result<()> {
    let fresh = dir.join("fresh");
    certificates(&fresh, dcs).await?;
    let (old, new) = (std::fs::read(dir.join("ca.pem"))?, std::fs::read(fresh.join("ca.pem"))?);
    replace(&dir.join("ca.pem"), &[old, new.clone()].concat())?;
    tokio::time::sleep(step).await;
    for dc in 1..=dcs {
        for kind in ["key", "pem"] {
            let name = format!("dc-{dc}.{kind}");
            replace(&dir.join(&name), &std::fs::read(fresh.join(&name))?)?;
        }
    }
    tokio::time::sleep(step).await;
    replace(&dir.join("ca.pem"), &new)?;
    tokio::time::sleep(step).await;
    Ok(())
}

fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, content)?;
    std::fs::rename(beside, path)
}

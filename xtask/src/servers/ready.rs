//! Is a server ready? Asked with a request, as an open port proves nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Kind;
use super::version::Version;

/// What one answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// Asks the server at `address` (`ip:port`) to do some work; tells its version.
pub(crate) fn ask(kind: Kind, address: &str) -> Result<Version> {
    match kind {
        Kind::Nats => ask_nats(address),
        Kind::Etcd => ask_etcd(address),
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is not ip:port"))?;
    let stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// Asks JetStream for its account info; in a cluster that needs the cluster's leader.
fn ask_nats(address: &str) -> Result<Version> {
    let mut stream = connect(address)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut hello = String::new();
    lines.read_line(&mut hello)?;
    let info: Value = serde_json::from_str(hello.strip_prefix("INFO ").context("no INFO line")?)?;
    let version = info["version"].as_str().and_then(Version::find).context("INFO names no version")?;
    stream
        .write_all(b"CONNECT {\"verbose\":false}\r\nSUB _INBOX.ready 1\r\nPUB $JS.API.INFO _INBOX.ready 0\r\n\r\n")?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || line.starts_with("-ERR") {
            bail!("the connection ended: {line}");
        }
        if line.starts_with("MSG ") {
            let mut answer = String::new();
            lines.read_line(&mut answer)?;
            let answer: Value = serde_json::from_str(&answer)?;
            if !answer["error"].is_null() {
                bail!("JetStream says {}", answer["error"]);
            }
            return Ok(version);
        }
    }
}

/// `/health` reads through the quorum.
fn ask_etcd(address: &str) -> Result<Version> {
    let health = get(address, "/health")?;
    if health["health"] != "true" {
        bail!("/health says {health}");
    }
    let version = get(address, "/version")?;
    version["etcdserver"].as_str().and_then(Version::find).context("/version names no version")
}

/// A JSON document over HTTP.
fn get(address: &str, path: &str) -> Result<Value> {
    let mut stream = connect(address)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    serde_json::from_str(body).with_context(|| format!("{path}: {head}"))
}

//! Where a node can be reached.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{Invalid, NodeId};

/// Host and port of a node: an IP address or a DNS name, as others reach it.
///
/// `10.0.0.6:7946`, `[::1]:7946`, `node-1.dc-1.example:7946`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    host: Arc<str>,
    port: u16,
}

impl Endpoint {
    /// The host: an IP address (IPv6 without brackets) or a DNS name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, where the host is an IP address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 || !name.split('.').all(label_ok) {
        return Err("host must be an IP address or a DNS name");
    }
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err("host looks like an IP address, but is none");
    }
    Ok(())
}

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |rule: &str| Invalid::new("endpoint", text, rule);
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("must be host:port"))?;
        let bare = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(refuse("what stands in brackets must be an IPv6 address")),
            None if host.contains(':') => return Err(refuse("an IPv6 address must stand in brackets")),
            None => host,
        };
        check_host(bare).map_err(refuse)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        match port.parse::<u16>() {
            Ok(number) if number != 0 && digits => Ok(Self { host: bare.into(), port: number }),
            _ => Err(refuse("port must be 1 to 65535")),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<SocketAddr> for Endpoint {
    /// The port of `addr` is taken as it is: pass an address that something listens on.
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().to_string().into(), port: addr.port() }
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One node of a datacenter and where it takes links.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeEndpoint {
    /// The node's run.
    pub node: NodeId,
    /// Where others reach it.
    pub endpoint: Endpoint,
    /// Share of new work for the weighted strategy; 1 by default, 0 takes none.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

impl NodeEndpoint {
    /// A node of weight 1.
    pub fn new(node: NodeId, endpoint: Endpoint) -> Self {
        Self { node, endpoint, weight: 1 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_read_back_as_written() {
        for text in ["10.0.0.6:7946", "[::1]:7946", "node-1.dc-1.example:7946", "localhost:1"] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_endpoints_name_the_rule() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            ":1",
            "::1:5",
            "[x]:5",
            "a b:1",
            "-a:1",
            "1.2.3:4",
            "a..b:1",
        ] {
            let err = text.parse::<Endpoint>().expect_err(text);
            assert_eq!((err.field.as_str(), err.value.as_str()), ("endpoint", text));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in ".{0,30}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
            }
        }
    }
}

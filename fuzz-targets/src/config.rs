//! Configuration as people write it: names, endpoints, selectors, labels, keys, URLs of control planes.

use std::{fmt, str::FromStr};

use dc_core::{DataCenter, DataCenterId, DataCenterSelector, Endpoint, Invalid, NodeId, Selector, StoreId, SystemName};
use multidc::GossipKey;

/// Never seen in an error or in what a configuration shows of itself.
const SECRET: &str = "pass-W7gq2";

/// Any bytes as any setting. What is refused names its field and a rule; what is taken reads back; no secret shows.
///
/// # Panics
///
/// Where that does not hold.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    reads_back::<DataCenterId>(&text);
    reads_back::<Endpoint>(&text);
    reads_back::<NodeId>(&text);
    reads_back::<StoreId>(&text);
    if let Ok(name) = told(SystemName::new(&*text)) {
        assert_eq!(name.as_str(), text);
    }
    if let Err(err) = text.parse::<GossipKey>() {
        assert!(text.len() < 8 || !err.to_string().contains(&*text), "{err}: shows the key");
    }
    data_center(&text);
    selector(&text);
    urls(&text);
}

/// An error says which field breaks which rule.
fn told<T>(result: Result<T, Invalid>) -> Result<T, Invalid> {
    if let Err(err) = &result {
        assert!(!err.field.is_empty() && !err.rule.is_empty(), "{err:?}: an error that tells nothing");
    }
    result
}

fn reads_back<T: FromStr<Err = Invalid> + PartialEq + fmt::Debug + fmt::Display>(text: &str) {
    if let Ok(read) = told(text.parse::<T>()) {
        assert_eq!(read.to_string().parse::<T>().as_ref(), Ok(&read), "{text:?} does not read back");
    }
}

/// Lines: name, region, zone, then `key=value`.
fn data_center(text: &str) {
    let mut lines = text.split('\n');
    let mut builder = DataCenter::new(lines.next().unwrap_or_default());
    if let Some(region) = lines.next().filter(|line| !line.is_empty()) {
        builder = builder.region(region);
    }
    if let Some(zone) = lines.next().filter(|line| !line.is_empty()) {
        builder = builder.zone(zone);
    }
    for (key, value) in lines.filter_map(|line| line.split_once('=')) {
        builder = builder.label(key, value);
    }
    let Ok(dc) = told(builder.build()) else { return };
    assert_eq!(dc.id().to_string().parse().as_ref(), Ok(dc.id()), "an id reads back");
    assert!(Selector::id(dc.id().clone()).matches(&dc) && Selector::name(dc.name()).matches(&dc));
    let stored = serde_json::to_string(&dc).expect("strings only");
    assert_eq!(serde_json::from_str::<DataCenter>(&stored).expect("it reads back"), dc);
}

fn selector(text: &str) {
    let Ok(selector) = serde_json::from_str::<DataCenterSelector>(text) else { return };
    if told(selector.check()).is_ok() {
        let stored = serde_json::to_string(&selector).expect("strings only");
        assert_eq!(serde_json::from_str::<DataCenterSelector>(&stored).expect("it reads back"), selector);
    }
}

fn urls(text: &str) {
    let _ = told(multidc::check_url(text));
    for scheme in ["sqlite", "nats", "tls", "etcd"] {
        let _ = told(multidc::check_url(&format!("{scheme}:{text}")));
        let _ = told(multidc::check_url(&format!("{scheme}://{text}")));
    }
    for scheme in ["nats", "tls", "etcd"] {
        for start in ["", "//"] {
            let url = format!("{scheme}:{start}me:{SECRET}@{text}");
            let shown = match multidc::check_url(&url) {
                Ok(config) => config,
                Err(err) => format!("{err} {err:?}"),
            };
            assert!(!shown.contains(SECRET), "{url:?}: the password shows in {shown}");
        }
    }
}

/// Inputs worth starting from.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let texts = [
        ("dc", "dc-1\neu-west-1\naz-a\ntier=edge\nowner=ops"),
        ("dc-id", "eu-west-1/az-a/dc-1"),
        ("endpoint", "node-1.dc-1.example:7946"),
        ("endpoint-v6", "[2001:db8::1]:7946"),
        ("node", "0123456789abcdef0123456789abcdef"),
        ("selector", r#"{"name":"dc-2","region":"eu-west-1","zone":"az-a","labels":{"tier":"edge"}}"#),
        ("hosts", "10.0.0.1:4222,node-2.example:4222?bucket=app&replicas=3&request_timeout=2s"),
        ("hosts-tls", "10.0.0.1:2379?ca=/ca.pem&certificate=/c.pem&key=/k.pem&strict=true&namespace=app"),
        ("file", "/var/lib/app%20x/plane.db?namespace=app&create=false&require_at_start=true&request_timeout=500ms"),
        ("credentials", "host?credentials=/path/user.creds"),
        ("second-at", "x@host:1@host:2"),
    ];
    texts.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into()
}

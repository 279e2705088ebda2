//! What an operator or a stranger does to a bucket, through a plain client.

use async_nats::Client;
use serde_json::{Value, json};

use super::until;

/// A client of the server at `url`, once it answers.
pub(crate) async fn client(url: &str) -> Client {
    let addresses: Vec<async_nats::ServerAddr> = url.split(',').map(|url| url.parse().expect("a URL")).collect();
    until("a connection for the test itself", async || async_nats::connect(&addresses[..]).await.ok()).await
}

/// One request of JetStream's API, tried until a leader answers.
pub(crate) async fn api(client: &Client, operation: &str, body: Value) -> Value {
    until(operation, async || {
        let answer = client.request(format!("$JS.API.{operation}"), body.to_string().into()).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
        (answer["error"]["code"] != 503).then_some(answer)
    })
    .await
}

/// A bucket with these settings, besides those of every key-value bucket.
pub(crate) async fn make_bucket(client: &Client, bucket: &str, further: Value) -> Value {
    let mut config = json!({
        "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "retention": "limits",
        "storage": "file", "max_msgs_per_subject": 1, "max_msgs": -1, "max_bytes": -1, "max_consumers": -1,
        "discard": "new", "allow_direct": true, "allow_rollup_hdrs": true, "num_replicas": 1,
    });
    for (field, value) in further.as_object().expect("settings") {
        config[field] = value.clone();
    }
    let made = api(client, &format!("STREAM.CREATE.KV_{bucket}"), config).await;
    assert!(made["error"].is_null(), "{made}");
    made
}

pub(crate) async fn bucket(client: &Client, bucket: &str) -> Value {
    api(client, &format!("STREAM.INFO.KV_{bucket}"), json!({})).await
}

pub(crate) async fn delete_bucket(client: &Client, bucket: &str) {
    api(client, &format!("STREAM.DELETE.KV_{bucket}"), json!({})).await;
}

/// Writes `bytes` where `key` (`records/<id>`, `intents/<id>`, or a stranger's) lies; waits for the store's word.
pub(crate) async fn put(client: &Client, bucket: &str, key: &str, bytes: &[u8]) {
    let answer = client.request(format!("$KV.{bucket}.{}", place(key)), bytes.to_vec().into()).await;
    let answer: Value = serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON");
    assert!(answer["error"].is_null(), "{answer}");
}

/// Where a key lies. Written down once more, for what is stored must stay readable: two hexadecimal digits of
/// FNV-1a over the id, folded to a byte.
pub(crate) fn place(key: &str) -> String {
    if let Some(document) = key.strip_prefix("own/") {
        let hash = fnv(document);
        let bits = (hash ^ (hash >> 12) ^ (hash >> 24)) & 0xfff;
        return format!("own.{:x}.{:x}.{:x}.{}", bits >> 8, bits >> 4 & 15, bits & 15, document.replace('/', "."));
    }
    let Some((kind @ ("records" | "intents"), id)) = key.split_once('/') else {
        return key.to_owned();
    };
    let byte = fnv(id).to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte);
    format!("{:x}.{:x}.{kind}.{id}", byte >> 4, byte & 15)
}

fn fnv(text: &str) -> u32 {
    text.bytes().fold(2_166_136_261, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

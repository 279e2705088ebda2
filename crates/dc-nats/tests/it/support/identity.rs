//! An operator, an account and users, as `nsc` would make them: JWTs and `.creds` files.

use std::path::{Path, PathBuf};

use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account that may use JetStream, and a system account.
pub(crate) struct Operator {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self { operator: KeyPair::new_operator(), account: KeyPair::new_account(), system: KeyPair::new_account() }
    }

    /// What makes a server trust them.
    pub(crate) fn config(&self) -> String {
        let unlimited = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        });
        let of_operator = sign(&self.operator, &self.operator, json!({"type": "operator", "version": 2}), None);
        let account = json!({"type": "account", "version": 2, "limits": unlimited});
        let of_account = sign(&self.operator, &self.account, account, None);
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "conn": -1});
        let system = json!({"type": "account", "version": 2, "limits": limits});
        let of_system = sign(&self.operator, &self.system, system, None);
        let [account, system] = [self.account.public_key(), self.system.public_key()];
        format!(
            "operator: {of_operator}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {account}: {of_account}\n{system}: {of_system} }}"
        )
    }

    /// A token for `user` with these permissions (`{"pub": {"allow": [..]}, ..}`; `{}` for all).
    pub(crate) fn user(&self, user: &KeyPair, permissions: &Value) -> String {
        sign(&self.account, user, user_claims(permissions), None)
    }

    /// The same, valid until `expires`, in seconds since 1970.
    pub(crate) fn user_until(&self, user: &KeyPair, permissions: &Value, expires: u64) -> String {
        sign(&self.account, user, user_claims(permissions), Some(expires))
    }
}

fn user_claims(permissions: &Value) -> Value {
    let mut claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    for (field, value) in permissions.as_object().expect("permissions") {
        claims[field] = value.clone();
    }
    claims
}

/// A JWT about `subject` that `by` signed.
fn sign(by: &KeyPair, subject: &KeyPair, nats: Value, expires: Option<u64>) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let subject = subject.public_key();
    let mut claims = json!({
        "jti": subject, "iat": 1_700_000_000, "iss": by.public_key(), "name": subject, "sub": subject, "nats": nats,
    });
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    let head = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    let signature = by.sign(body.as_bytes()).expect("a key pair with its seed");
    format!("{body}.{}", encode(&signature))
}

/// A `.creds` file: the token and the seed of `user`.
pub(crate) fn credentials_file(dir: &Path, name: &str, token: &str, user: &KeyPair) -> PathBuf {
    let path = dir.join(name);
    let seed = user.seed().expect("a new key has a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&path, text).expect("a temporary file");
    path
}

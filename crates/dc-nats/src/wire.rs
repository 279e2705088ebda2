//! Single requests to JetStream: publish, batched direct read, API.
//!
//! Each function sends one request (a read of more than 64 MB: several) and
//! decides nothing: what to do about a refusal is `bucket`'s and `plane`'s.

use std::{collections::HashMap, time::Duration};

use async_nats::{HeaderMap, Message, Request, RequestError, RequestErrorKind, StatusCode, Subscriber};
use bytes::Bytes;
use dc_controlplane::{Error, Outcome, Removal};
use dc_core::Invalid;
use futures::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    connect::Link,
    error::{ApiError, BACKEND, Call, Failure},
    keys::Keys,
};

/// Names the sequence that the subject must have for a write to be accepted; 0 for none.
pub(crate) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// How long the message lives, in seconds: `30s`.
pub(crate) const TTL: &str = "Nats-TTL";
/// Marks a message of a key-value bucket as a removal: `DEL` or `PURGE`.
pub(crate) const KV_OPERATION: &str = "KV-Operation";
const MARKER_REASON: &str = "Nats-Marker-Reason";

/// What became of a publish that the server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Stored, under this sequence.
    Stored(u64),
    /// Refused: the subject has another last sequence, this one where the server says.
    WrongLast(Option<u64>),
}

/// One message of the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) payload: Bytes,
    /// Set where the message says that the key is gone.
    pub(crate) removal: Option<Removal>,
}

/// The answer to a batched read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// The last message of each subject.
    pub(crate) messages: Vec<Stored>,
    /// The store's last sequence when it was read; 0 where nothing matched, for then it is not told.
    pub(crate) up_to: u64,
}

/// Sends requests for one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) link: Link,
    pub(crate) keys: Keys,
}

impl Wire {
    /// Bounds a call as a whole, and says what is known of its outcome if time runs out (P11).
    pub(crate) async fn bounded<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(call.limit, work).await.unwrap_or_else(|_| Err(self.gave_up(call)))
    }

    fn gave_up(&self, call: &Call) -> Error {
        let (operation, outcome) = (call.operation, call.outcome());
        if outcome == Outcome::Unchanged
            && let Some(refused) = self.link.refused()
        {
            return refused;
        }
        let connected = self.link.is_connected();
        let why = if connected { None } else { self.link.failure().map(Into::into) };
        match why.or_else(|| call.take_trouble()) {
            Some(source) => Error::Unreachable { backend: BACKEND, operation, outcome, source },
            None if !connected => {
                Error::Unreachable { backend: BACKEND, operation, outcome, source: "not connected".into() }
            }
            None => Error::Timeout { backend: BACKEND, operation, after: call.limit, outcome },
        }
    }

    /// Publishes to a key, and waits for the store's word.
    pub(crate) async fn publish(
        &self,
        call: &Call,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Ack, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            error: Option<ApiError>,
            #[serde(default)]
            seq: u64,
        }
        self.link.connected().await;
        call.write_sent();
        let answered = self.ask(call, subject, Request::new().headers(headers).payload(payload)).await;
        if let Err(Failure::NoResponders | Failure::Final(Error::Denied { .. } | Error::Invalid(_))) = &answered {
            call.write_answered();
        }
        let answer: Answer = parse(call, &answered?.payload)?;
        call.write_answered();
        match answer.error {
            None => Ok(Ack::Stored(answer.seq)),
            Some(error) => match error.wrong_last() {
                Some(sequence) => Ok(Ack::WrongLast(sequence)),
                None => Err(Failure::Api(error)),
            },
        }
    }

    /// One request of JetStream's API, for which a `$JS.API.` is put before `operation`.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        call: &Call,
        operation: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, Failure> {
        #[derive(Deserialize)]
        struct Refusal {
            error: Option<ApiError>,
        }
        self.link.connected().await;
        let subject = format!("$JS.API.{operation}");
        let payload = body.map(ToString::to_string).unwrap_or_default();
        let answer = patient(call, self.ask(call, &subject, Request::new().payload(payload.into()))).await?;
        match parse::<Refusal>(call, &answer.payload)?.error {
            Some(error) => Err(Failure::Api(error)),
            None => parse(call, &answer.payload),
        }
    }

    async fn ask(&self, call: &Call, subject: &str, request: Request) -> Result<Message, Failure> {
        let mut violations = self.link.violations(subject);
        let answer = self.link.client().send_request(subject.to_owned(), request.timeout(None));
        tokio::select! {
            answer = answer => answer.map_err(|err| request_failure(call, err)),
            refused = violations.next() => Err(refused.into()),
        }
    }

    /// The last messages of all subjects that match `filters`, from one moment; one request.
    ///
    /// # Errors
    ///
    /// [`Failure::TooMany`] where more than 1,024 subjects match.
    pub(crate) async fn read(&self, call: &Call, filters: &[String]) -> Result<Read, Failure> {
        let mut read = Read::default();
        let mut from = 0;
        loop {
            let page = match self.read_page(call, filters, from).await {
                Err(Failure::Again) => continue,
                page => page?,
            };
            if from == 0 {
                read.up_to = page.up_to;
            }
            read.messages.extend(page.messages);
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if from > 0 {
            keep_latest(&mut read.messages);
        }
        Ok(read)
    }

    async fn read_page(&self, call: &Call, filters: &[String], from: u64) -> Result<Page, Failure> {
        self.link.connected().await;
        let subject = format!("$JS.API.DIRECT.GET.{}", self.keys.stream());
        let mut violations = self.link.violations(&subject);
        let client = self.link.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|err| call.backend(err))?;
        let body = serde_json::json!({"multi_last": filters, "seq": from}).to_string();
        client
            .publish_with_reply(subject.clone(), inbox, body.into())
            .await
            .map_err(|err| Failure::from(call.backend(err)))?;
        tokio::select! {
            page = collect(call, &mut answers) => page,
            refused = violations.next() => Err(refused.into()),
        }
    }
}

/// Gives up on one try of a request that may be repeated: a server that is starting, or that dies, answers nothing.
async fn patient<T>(call: &Call, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(patience(call), answer).await.unwrap_or(Err(Failure::Again))
}

fn patience(call: &Call) -> Duration {
    (call.limit / 3).clamp(Duration::from_millis(500), Duration::from_secs(2))
}

struct Page {
    messages: Vec<Stored>,
    up_to: u64,
    /// Where to go on, if there is more.
    next: Option<u64>,
}

/// Gathers the messages of one batched read, up to its end mark. Given up where nothing comes for a while: many messages
/// may take long as a whole, and asking again would make them take longer.
async fn collect(call: &Call, answers: &mut Subscriber) -> Result<Page, Failure> {
    let mut page = Page { messages: Vec::new(), up_to: 0, next: None };
    loop {
        let message = match tokio::time::timeout(patience(call), answers.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Error::Closed.into()),
            Err(_) => return Err(Failure::Again),
        };
        let header = |name: &str| number(message.headers.as_ref()?, name);
        match message.status.map(|status| status.as_u16()) {
            None => {
                let (Some(subject), Some(sequence)) =
                    (text(message.headers.as_ref(), "Nats-Subject"), header("Nats-Sequence"))
                else {
                    return Err(call.backend("a batched read was answered by something else").into());
                };
                let removal = removal(message.headers.as_ref());
                page.messages.push(Stored { subject: subject.to_owned(), sequence, payload: message.payload, removal });
            }
            Some(204) => {
                page.up_to = header("Nats-UpTo-Sequence").unwrap_or_default();
                let last = page.messages.last().map_or(0, |message| message.sequence);
                page.next = header("Nats-Num-Pending").filter(|left| *left > 0).map(|_| last + 1);
                return Ok(page);
            }
            Some(404) if message.description.as_deref() == Some("No Results") => return Ok(page),
            // A key expired between being found and being read: nothing more comes, and no word as of when it is.
            Some(404) => return Err(Failure::Again),
            Some(413) => return Err(Failure::TooMany),
            Some(503) => return Err(Failure::NoResponders),
            Some(code) => {
                let description = message.description.unwrap_or_default();
                return Err(Failure::Api(ApiError { code, err_code: 0, description }));
            }
        }
    }
}

fn keep_latest(messages: &mut Vec<Stored>) {
    let mut latest: HashMap<String, Stored> = HashMap::new();
    for message in messages.drain(..) {
        let newer = latest.get(&message.subject).is_none_or(|held| held.sequence < message.sequence);
        if newer {
            latest.insert(message.subject.clone(), message);
        }
    }
    messages.extend(latest.into_values());
}

/// Whether a message says that its key is gone, and why: a tombstone of a client, or a marker of the server.
pub(crate) fn removal(headers: Option<&HeaderMap>) -> Option<Removal> {
    if let Some(operation) = text(headers, KV_OPERATION) {
        return matches!(operation, "DEL" | "PURGE").then_some(Removal::Deregistered);
    }
    match text(headers, MARKER_REASON)? {
        "MaxAge" => Some(Removal::Expired),
        _ => Some(Removal::Unknown),
    }
}

pub(crate) fn text<'h>(headers: Option<&'h HeaderMap>, name: &str) -> Option<&'h str> {
    headers?.get(name).map(|value| value.as_str())
}

pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(Some(headers), name)?.parse().ok()
}

/// The headers of a write: the sequence it names, and how long it is to live.
pub(crate) fn write_headers(expected: Option<u64>, ttl: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(expected) = expected {
        headers.insert(EXPECTED, expected.to_string());
    }
    if let Some(ttl) = ttl {
        headers.insert(TTL, format!("{}s", crate::config::whole_seconds(ttl).as_secs()));
    }
    headers
}

fn parse<T: DeserializeOwned>(call: &Call, payload: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(payload).map_err(|err| call.backend(err).into())
}

fn request_failure(call: &Call, err: RequestError) -> Failure {
    match err.kind() {
        RequestErrorKind::NoResponders => Failure::NoResponders,
        RequestErrorKind::MaxPayloadExceeded => {
            Failure::Final(Invalid::new("record", err.to_string(), "must fit into the server's max_payload").into())
        }
        _ => Failure::Final(call.backend(err)),
    }
}

/// Whether a message is about the subscription itself, not about a key.
pub(crate) fn is_idle_heartbeat(message: &Message) -> bool {
    message.status == Some(StatusCode::IDLE_HEARTBEAT)
}

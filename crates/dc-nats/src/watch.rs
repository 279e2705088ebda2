//! The watch: a push consumer on the bucket, made anew whenever it breaks.
//!
//! Owns the order and completeness of what is delivered (P5, O6), the sign of life
//! (C4) and the watcher's own timing of leases (P4). What the messages mean is a
//! [`View`]'s: that of the records stands here, that of the documents in `ownership`. async-nats has an ordered
//! consumer, but it hides the idle heartbeats, and it resumes without asking
//! whether the store still is what it was.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use dc_controlplane::{Error, Removal, Watch, WatchEvent};
use dc_core::{DataCenterId, Lease, StoreId, Version};
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use serde::Deserialize;
use serde_json::json;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    bucket::{GRANULARITY, Pause, Ready, parse_store_id},
    config::whole_seconds,
    error::{Call, Failure},
    keys::{Key, Keys},
    plane::{Inner, Item},
    quorum::{PROOF_AGE, Quorum},
    wire::{Stored, is_idle_heartbeat, number, removal, text},
};

/// How often the server shows that it is there when nothing changes.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);

/// How often the leader of a replicated bucket is asked whether it has a majority.
const PROOF_INTERVAL: Duration = Duration::from_secs(4);

/// After this long without a word the consumer is taken for gone.
const SILENCE: Duration = Duration::from_secs(6);

/// How many events may wait for a slow reader before the server is held up.
const CAPACITY: usize = 1_024;

/// What a watch shows of the bucket.
pub(crate) trait View: Send + Sync + 'static {
    type Event: Send + 'static;

    /// The subjects that it needs, which do not overlap; the store's id is one of them.
    fn filters(&self, keys: &Keys) -> Vec<String>;

    /// What one message of the bucket, not the store's id, says to the reader. `replayed`: whether the replay is over.
    fn take(&mut self, inner: &Inner, store: StoreId, stored: Stored, replayed: bool) -> Vec<Self::Event>;

    /// What is over without a word of the server, which showed at `contact` that it has nothing more to say. Traces of
    /// removals go after `traces`.
    fn expire(&mut self, contact: Instant, traces: Duration) -> Vec<Self::Event>;

    fn replay_done(as_of: Version) -> Self::Event;

    fn in_step() -> Self::Event;
}

/// Opens a watch of the records.
pub(crate) async fn open(inner: &Arc<Inner>, call: &Call) -> Result<Watch, Error> {
    open_view(inner, call, Records::default()).await
}

/// Opens a watch: the first consumer is made before this returns.
pub(crate) async fn open_view<V: View>(
    inner: &Arc<Inner>,
    call: &Call,
    view: V,
) -> Result<BoxStream<'static, Result<V::Event, Error>>, Error> {
    let ready = inner.bucket.ready(call).await?;
    if ready.replicated {
        // A replica that is cut off from the others would replay what was once there.
        inner.bucket.quorum(call, PROOF_AGE).await?;
    }
    let filters = view.filters(&inner.bucket.wire.keys);
    let consumer = Consumer::create(inner, call, &filters, Start::LastOfEach).await?;
    let (events, receiver) = mpsc::channel(CAPACITY);
    let now = inner.clock.now();
    let watcher = Watcher {
        inner: Arc::clone(inner),
        view,
        filters,
        events,
        store: ready.store,
        created: ready.created.clone(),
        marker_ttl: ready.marker_ttl,
        replicated: ready.replicated,
        last: 0,
        replayed: false,
        contact: now,
        asked: now,
        proof: None,
        doubt: false,
    };
    tokio::spawn(watcher.run(consumer));
    Ok(ReceiverStream::new(receiver).boxed())
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// With the last message of each key.
    LastOfEach,
    /// With this sequence.
    At(u64),
}

/// A consumer on the server, and the subscription that it pushes to.
struct Consumer {
    name: String,
    messages: Subscriber,
    /// How many messages came so far.
    delivered: u64,
    /// The connection it was made on.
    connects: u64,
}

impl Consumer {
    async fn create(inner: &Inner, call: &Call, filters: &[String], start: Start) -> Result<Self, Error> {
        let wire = &inner.bucket.wire;
        let mut pause = Pause::default();
        loop {
            wire.link.connected().await;
            let connects = wire.link.connects();
            let client = wire.link.client();
            let inbox = client.new_inbox();
            let name = format!("multidc-{:016x}", rand::random::<u64>());
            let messages = client.subscribe(inbox.clone()).await.map_err(|err| call.backend(err))?;
            let operation = format!("CONSUMER.CREATE.{}.{name}", wire.keys.stream());
            let body = settings(wire.keys.stream(), filters, &name, &inbox, start);
            match wire.api::<serde_json::Value>(call, &operation, Some(&body)).await {
                Ok(_) => return Ok(Self { name, messages, delivered: 0, connects }),
                Err(Failure::Final(err)) => return Err(err),
                Err(Failure::Api(err)) if err.is_not_found() => {
                    inner.bucket.refresh(call).await?;
                }
                Err(Failure::Api(err)) if !err.is_temporary() => return Err(call.backend(err)),
                Err(other) => {
                    call.note(other);
                    pause.rest().await;
                }
            }
        }
    }
}

/// An ephemeral, unacknowledged push consumer in the server's memory.
fn settings(stream: &str, filters: &[String], name: &str, inbox: &str, start: Start) -> serde_json::Value {
    let mut config = json!({
        "name": name,
        "deliver_subject": inbox,
        "deliver_policy": "last_per_subject",
        "ack_policy": "none",
        "max_deliver": 1,
        "filter_subjects": filters,
        "replay_policy": "instant",
        "flow_control": true,
        "idle_heartbeat": nanos(IDLE_HEARTBEAT),
        "inactive_threshold": nanos(Duration::from_secs(30)),
        "num_replicas": 1,
        "mem_storage": true,
    });
    if let Start::At(sequence) = start {
        config["deliver_policy"] = "by_start_sequence".into();
        config["opt_start_seq"] = sequence.into();
    }
    json!({"stream_name": stream, "config": config})
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A live record, as delivered.
struct Known {
    version: Version,
    lease: Lease,
}

/// The records and intents.
#[derive(Default)]
struct Records {
    /// Every live record that was delivered and not removed: a mirror of the store.
    known: HashMap<DataCenterId, Known>,
    /// What was told as gone, and when: a tombstone is followed by the marker of its own end.
    gone: HashMap<DataCenterId, Instant>,
}

struct Watcher<V: View> {
    inner: Arc<Inner>,
    view: V,
    filters: Vec<String>,
    events: mpsc::Sender<Result<V::Event, Error>>,
    store: StoreId,
    created: String,
    marker_ttl: Duration,
    /// The last sequence that was delivered.
    last: u64,
    replayed: bool,
    /// Whether it takes the leader's word, not only that of the server which pushes, to be in step.
    replicated: bool,
    /// When the store last showed that nothing was missed.
    contact: Instant,
    /// When the leader was last asked.
    asked: Instant,
    /// What the leader answered, until all that it had then is delivered.
    proof: Option<Quorum>,
    /// Whether the leader's last answer was none.
    doubt: bool,
}

/// Why following a consumer ended.
enum End {
    /// Nobody listens any more.
    Dropped,
    /// It broke, or may have: make another.
    Broken(&'static str),
    /// The watch is over.
    Lost(String),
}

impl<V: View> Watcher<V> {
    async fn run(mut self, mut consumer: Consumer) {
        loop {
            let end = self.follow(&mut consumer).await;
            self.discard(&consumer).await;
            let why = match end {
                End::Dropped => return,
                End::Lost(why) => why,
                End::Broken(why) => {
                    tracing::debug!(why, last = self.last, "the watch's consumer is made anew");
                    match self.resume().await {
                        Ok(next) => {
                            consumer = next;
                            continue;
                        }
                        Err(End::Lost(why)) => why,
                        Err(End::Dropped | End::Broken(_)) => return,
                    }
                }
            };
            tracing::warn!(why, "the watch is lost");
            // A reader that is gone needs no word.
            let _ = self.events.send(Err(Error::WatchLost { why })).await;
            return;
        }
    }

    /// Tells the server that a consumer is not needed any more; else it goes after its idle time.
    async fn discard(&self, consumer: &Consumer) {
        let wire = &self.inner.bucket.wire;
        if wire.link.is_connected() {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", wire.keys.stream(), consumer.name);
            // Best effort: nobody waits for the answer.
            let _ = wire.link.client().publish(subject, Bytes::new()).await;
        }
    }

    /// Delivers what a consumer brings, until it breaks.
    async fn follow(&mut self, consumer: &mut Consumer) -> End {
        let link = self.inner.bucket.wire.link.clone();
        let reconnected = link.reconnected(consumer.connects);
        let mut reconnected = std::pin::pin!(reconnected);
        let mut question: Option<BoxFuture<'static, Option<Quorum>>> = None;
        loop {
            if question.is_none() {
                question = self.question();
            }
            let message = tokio::select! {
                biased;
                () = self.events.closed() => return End::Dropped,
                // Before what is left of the old connection: that would look like contact.
                () = &mut reconnected => return End::Broken("there was another connection"),
                answer = async { question.as_mut()?.await }, if question.is_some() => {
                    question = None;
                    match self.answered(answer).await {
                        Ok(()) => continue,
                        Err(end) => return end,
                    }
                }
                message = tokio::time::timeout(SILENCE, consumer.messages.next()) => message,
            };
            let taken = match message {
                Ok(Some(message)) if is_idle_heartbeat(&message) => self.heartbeat(consumer, &message).await,
                Ok(Some(message)) if message.status.is_some() => continue,
                Ok(Some(message)) => self.message(consumer, message).await,
                Ok(None) => return End::Lost("the client was closed".to_owned()),
                Err(_) => return End::Broken("the server fell silent"),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    /// Makes another consumer that goes on behind the last message delivered, if nothing can have been missed (P5).
    async fn resume(&mut self) -> Result<Consumer, End> {
        let inner = Arc::clone(&self.inner);
        loop {
            let call = inner.call("watch");
            let again = async {
                // First of all a word from the stream's leader: is it still what it was?
                let ready = inner.bucket.refresh(&call).await?;
                let last = match ready.replicated {
                    // Only a leader with a majority knows: others may not have heard of the last writes.
                    true => inner.bucket.quorum(&call, Duration::ZERO).await?.last_sequence,
                    false => ready.last_sequence,
                };
                if let Some(why) = self.cannot_go_on(&ready, last) {
                    return Ok(Err(End::Lost(why)));
                }
                // With one message for each key, what follows is the last of each.
                let start = if self.last > 0 { Start::At(self.last + 1) } else { Start::LastOfEach };
                Ok(Ok(Consumer::create(&inner, &call, &self.filters, start).await?))
            };
            let outcome = tokio::select! {
                () = self.events.closed() => return Err(End::Dropped),
                outcome = inner.bucket.wire.bounded(&call, again) => outcome,
            };
            match outcome {
                Ok(outcome) => return outcome,
                Err(err) => tracing::debug!(error = %err, "the watch cannot go on yet"),
            }
            tokio::select! {
                () = self.events.closed() => return Err(End::Dropped),
                () = tokio::time::sleep(Duration::from_millis(rand::random_range(250..500))) => {}
            }
        }
    }

    fn cannot_go_on(&self, ready: &Ready, last_sequence: u64) -> Option<String> {
        if ready.store != self.store || ready.created != self.created {
            return Some(format!("this is another store: {}, not {}", ready.store, self.store));
        }
        if last_sequence < self.last {
            let last = self.last;
            return Some(format!("the store went back to {last_sequence}; {last} was delivered"));
        }
        self.away_too_long(self.inner.clock.now())
    }

    fn away_too_long(&self, now: Instant) -> Option<String> {
        let away = now.saturating_duration_since(self.contact);
        // Servers count by their wall clocks: keep a quarter in hand.
        let limit = self.marker_ttl * 3 / 4;
        (away > limit)
            .then(|| format!("out of contact for {away:?}; traces of removals are certain for {limit:?} only"))
    }

    async fn heartbeat(&mut self, consumer: &Consumer, message: &Message) -> Result<(), End> {
        if let Some(reply) = message.reply.clone() {
            // Flow control: the server waits for an empty answer.
            let _ = self.inner.bucket.wire.link.client().publish(reply, Bytes::new()).await;
            return Ok(());
        }
        let Some(headers) = &message.headers else { return Ok(()) };
        if let Some(stalled) = text(Some(headers), "Nats-Consumer-Stalled") {
            let _ = self.inner.bucket.wire.link.client().publish(stalled.to_owned(), Bytes::new()).await;
        }
        if number(headers, "Nats-Last-Consumer") != Some(consumer.delivered) {
            return Err(End::Broken("messages are missing before a heartbeat"));
        }
        if let Some(last) = number(headers, "Nats-Last-Stream") {
            self.last = self.last.max(last);
        }
        if self.replayed {
            self.caught_up(self.inner.clock.now()).await
        } else {
            // All that was pending has come, though the last of it may have gone before it was sent.
            self.replay_done(consumer).await
        }
    }

    async fn message(&mut self, consumer: &mut Consumer, message: Message) -> Result<(), End> {
        let Some(place) = message.reply.as_deref().and_then(Place::parse) else {
            return Ok(());
        };
        if place.consumer_sequence != consumer.delivered + 1 {
            return Err(End::Broken("messages are missing"));
        }
        consumer.delivered = place.consumer_sequence;
        if place.stream_sequence > self.last {
            self.last = place.stream_sequence;
            let removal = removal(message.headers.as_ref());
            let (subject, payload) = (message.subject.to_string(), message.payload);
            self.deliver(Stored { subject, sequence: place.stream_sequence, payload, removal }).await?;
        }
        if place.pending > 0 {
            return Ok(());
        }
        if !self.replayed {
            return self.replay_done(consumer).await;
        }
        // A bucket that is written to all the time has no idle heartbeats.
        let now = self.inner.clock.now();
        let due = self.replicated || now.saturating_duration_since(self.contact) >= IDLE_HEARTBEAT;
        if due { self.caught_up(now).await } else { Ok(()) }
    }

    /// The server that pushes has nothing more as of `now`: in step, if its word is enough, or the leader gave its own.
    async fn caught_up(&mut self, now: Instant) -> Result<(), End> {
        if !self.replicated {
            return self.in_step(now).await;
        }
        // One that was too old before all of it was delivered proves nothing to the reader, who is told of now.
        self.proof = self.proof.filter(|proof| now.saturating_duration_since(proof.at) <= PROOF_AGE);
        match self.proof {
            Some(proof) if proof.last_sequence <= self.last => {
                self.proof = None;
                self.in_step(proof.at).await
            }
            _ => Ok(()),
        }
    }

    /// Asks the leader whether it has a majority, when that is due.
    ///
    /// The server that pushes may be cut off from the others, and then shows signs of life but no renewals.
    fn question(&mut self) -> Option<BoxFuture<'static, Option<Quorum>>> {
        let now = self.inner.clock.now();
        let due = now.saturating_duration_since(self.asked) >= PROOF_INTERVAL;
        if !self.replicated || !self.replayed || !due {
            return None;
        }
        self.asked = now;
        let inner = Arc::clone(&self.inner);
        Some(Box::pin(async move {
            let call = inner.call("watch");
            inner.bucket.wire.bounded(&call, inner.bucket.quorum(&call, IDLE_HEARTBEAT)).await.ok()
        }))
    }

    async fn answered(&mut self, answer: Option<Quorum>) -> Result<(), End> {
        self.doubt |= answer.is_none();
        self.proof = answer;
        self.caught_up(self.inner.clock.now()).await
    }

    /// The store showed that nothing is outstanding as of `at` (C4).
    async fn in_step(&mut self, at: Instant) -> Result<(), End> {
        if std::mem::take(&mut self.doubt)
            && let Some(why) = self.away_too_long(at)
        {
            return Err(End::Lost(why));
        }
        self.contact = self.contact.max(at);
        // A tombstone lives as long as a marker, and then leaves one.
        for event in self.view.expire(self.contact, self.marker_ttl * 3) {
            self.send(event).await?;
        }
        self.send(V::in_step()).await
    }

    async fn deliver(&mut self, stored: Stored) -> Result<(), End> {
        if stored.removal.is_none() && self.inner.bucket.wire.keys.read(&stored.subject) == Key::Store {
            let same = parse_store_id(&stored.payload).is_ok_and(|store| store == self.store);
            return if same { Ok(()) } else { Err(End::Lost("the store's id was replaced".to_owned())) };
        }
        for event in self.view.take(&self.inner, self.store, stored, self.replayed) {
            self.send(event).await?;
        }
        Ok(())
    }

    async fn replay_done(&mut self, consumer: &Consumer) -> Result<(), End> {
        self.replayed = true;
        if let Some(position) = self.position(consumer).await {
            self.last = self.last.max(position);
        }
        let as_of = Version::new(self.store, self.last);
        self.send(V::replay_done(as_of)).await
    }

    /// How far the consumer has looked, which may be beyond the last message that it found.
    ///
    /// `None` where it cannot be told: what was delivered last will do.
    async fn position(&self, consumer: &Consumer) -> Option<u64> {
        #[derive(Deserialize)]
        struct Info {
            delivered: Delivered,
        }
        #[derive(Deserialize)]
        struct Delivered {
            consumer_seq: u64,
            stream_seq: u64,
        }
        let wire = &self.inner.bucket.wire;
        let call = self.inner.call("watch");
        let operation = format!("CONSUMER.INFO.{}.{}", wire.keys.stream(), consumer.name);
        let asked = wire.api::<Info>(&call, &operation, None);
        let info = tokio::time::timeout(Duration::from_secs(1), asked).await.ok()?.ok()?;
        // More is on its way to us: the position is beyond it.
        (info.delivered.consumer_seq == consumer.delivered).then_some(info.delivered.stream_seq)
    }

    async fn send(&self, event: V::Event) -> Result<(), End> {
        // A reader that holds us up for so long that traces of removals may go starts over when it comes back.
        match tokio::time::timeout(self.marker_ttl / 4, self.events.send(Ok(event))).await {
            Ok(sent) => sent.map_err(|_| End::Dropped),
            Err(_) => Err(End::Lost("the reader was too slow".to_owned())),
        }
    }
}

impl View for Records {
    type Event = WatchEvent;

    fn filters(&self, keys: &Keys) -> Vec<String> {
        keys.watched()
    }

    fn take(&mut self, inner: &Inner, store: StoreId, stored: Stored, replayed: bool) -> Vec<WatchEvent> {
        let key = inner.bucket.wire.keys.read(&stored.subject);
        let version = Version::new(store, stored.sequence);
        if let Some(why) = stored.removal {
            return match key {
                Key::Record(id) => self.removed(inner, id, version, why, replayed).into_iter().collect(),
                _ => Vec::new(),
            };
        }
        match inner.understand(&stored, store) {
            Ok(Some(Item::Record(record))) => {
                let lease = Lease::new(inner.clock.now(), whole_seconds(record.ttl) + GRANULARITY);
                self.gone.remove(record.id());
                self.known.insert(record.id().clone(), Known { version: record.version, lease });
                vec![WatchEvent::Put(*record)]
            }
            Ok(Some(Item::Intent(held))) => vec![WatchEvent::Intent(held)],
            Ok(None) => Vec::new(),
            Err(corrupt) => {
                // What cannot be decoded took the place of what could.
                let removed = match key {
                    Key::Record(id) => self.removed(inner, id, version, Removal::Unknown, replayed),
                    _ => None,
                };
                [WatchEvent::Skipped(corrupt)].into_iter().chain(removed).collect()
            }
        }
    }

    /// Removes what should have expired long since: by now the server showed that it has no renewal (P4).
    fn expire(&mut self, contact: Instant, traces: Duration) -> Vec<WatchEvent> {
        self.gone.retain(|_, told| contact.saturating_duration_since(*told) < traces);
        let ended = self.known.extract_if(|_, known| known.lease.is_expired(contact));
        let mut events = Vec::new();
        for (id, known) in ended {
            tracing::warn!(%id, "the server did not tell that this lease has ended");
            self.gone.insert(id.clone(), contact);
            events.push(WatchEvent::Removed { id, version: known.version, why: Removal::Expired });
        }
        events
    }

    fn replay_done(as_of: Version) -> WatchEvent {
        WatchEvent::ReplayDone { as_of }
    }

    fn in_step() -> WatchEvent {
        WatchEvent::InStep
    }
}

impl Records {
    /// Tells of a removal, once.
    ///
    /// Also that of a record which was not shown: its writes may have been overwritten before they were pushed, but the
    /// reader may have it from a list. During the replay its absence says enough.
    fn removed(
        &mut self,
        inner: &Inner,
        id: DataCenterId,
        version: Version,
        why: Removal,
        replayed: bool,
    ) -> Option<WatchEvent> {
        let shown = self.known.remove(&id).is_some();
        let told = self.gone.insert(id.clone(), inner.clock.now()).is_some();
        (shown || (replayed && !told)).then_some(WatchEvent::Removed { id, version, why })
    }
}

/// Where a pushed message stands, as its reply subject tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    stream_sequence: u64,
    consumer_sequence: u64,
    /// How many more there were when it was sent.
    pending: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`; newer servers may put
    /// a domain and an account behind `ACK`, and a token at the end.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let at = match tokens.len() {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let number = |n: usize| tokens.get(n)?.parse().ok();
        Some(Self { stream_sequence: number(at)?, consumer_sequence: number(at + 1)?, pending: number(at + 3)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn garbage_is_no_place(reply in "(\\$JS\\.ACK\\.)?([a-z0-9-]{0,3}\\.){0,12}[0-9]{0,25}") {
            // It is read or refused; it never panics.
            let _ = Place::parse(&reply);
        }
    }

    #[test]
    fn places_are_read_from_both_forms_of_the_reply() {
        let place = Place { stream_sequence: 41, consumer_sequence: 7, pending: 3 };
        assert_eq!(Place::parse("$JS.ACK.KV_b.c1.1.41.7.1795334087242904442.3"), Some(place));
        assert_eq!(Place::parse("$JS.ACK.hub.ACCHASH.KV_b.c1.1.41.7.1795334087242904442.3"), Some(place));
        assert_eq!(Place::parse("$JS.ACK.hub.ACCHASH.KV_b.c1.1.41.7.1795334087242904442.3.rnd"), Some(place));
        for garbage in ["", "$JS.ACK.", "$JS.ACK.a.b.c", "$JS.ACK.KV_b.c1.1.x.7.1.3", "_INBOX.a"] {
            assert_eq!(Place::parse(garbage), None, "{garbage}");
        }
    }
}

//! A watch: what is there, then what changes, across restarts of servers (P4, P5, C4).
//!
//! One task follows the namespace from the revision of a list on and feeds a
//! bounded channel; a slow reader slows it. Where a connection ends or falls
//! silent, it goes on at the revision after the last one delivered, at the next
//! member, having made sure that the store is still the same; what was compacted
//! meanwhile ends the watch.
//!
//! In step means: a quorum said what the newest revision is, and this stream has
//! delivered everything up to it. An open connection alone proves nothing: a member
//! that is cut off from its quorum keeps answering for a while.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use dc_controlplane::{Error, HeldIntent, Removal, Watch, WatchEvent};
use dc_core::{DataCenterId, Intent, StoreId, Version};
use etcd_client::{Event, EventType, KeyValue, WatchOptions, WatchResponse, WatchStream};
use futures::{StreamExt, stream::BoxStream};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};

use crate::{
    connect::{Call, Repeat},
    error::{self, Fate},
    keys::{self, Keys, Place},
    plane::{Answer, Contents, LARGEST_ANSWER, Shared},
    store::Mark,
};

/// Events that may wait for a slow reader.
const BUFFER: usize = 256;
/// The first and the longest pause between two attempts to go on.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What a watch shows of the namespace.
pub(crate) trait View: Send + Sync + 'static {
    type Event: Send + 'static;

    /// The keys that it follows: the first, and the first beyond.
    fn range(&self, keys: &Keys) -> (Vec<u8>, Vec<u8>);

    /// What is there at first, in version order, and the end of the replay.
    fn replay(&self, keys: &Keys, store: StoreId, kvs: &[KeyValue], as_of: Version) -> Vec<Self::Event>;

    /// The events of one response: whole revisions, in order; and whether the store is still the one of `mark`.
    fn changes(&self, shared: &Shared, mark: Mark, events: &[&Event]) -> (Vec<Self::Event>, Store);

    fn in_step() -> Self::Event;
}

/// What a watched change says of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Store {
    Same,
    Another,
}

/// Starts to follow the records from `contents` on.
pub(crate) fn start(shared: Arc<Shared>, contents: Contents) -> Watch {
    start_view(shared, contents, Records)
}

/// Starts to follow what `view` shows, from `contents` on.
pub(crate) fn start_view<V: View>(
    shared: Arc<Shared>,
    contents: Contents,
    view: V,
) -> BoxStream<'static, Result<V::Event, Error>> {
    let (events, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        let until_dropped = events.clone();
        let following = Follower::new(shared, view, &contents, events.clone()).run(contents);
        tokio::select! {
            () = until_dropped.closed() => {}
            end = following => {
                if let End::Failed(err) = end {
                    // Where the reader is gone, nobody is to be told.
                    let _ = events.send(Err(err)).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// Why the following, or one connection of it, ended.
enum End {
    /// The reader is gone.
    Dropped,
    /// To be told to the reader; nothing follows.
    Failed(Error),
    /// The connection ended: go on with another.
    Broken(String),
}

impl End {
    fn lost(why: impl Into<String>) -> Self {
        Self::Failed(Error::WatchLost { why: why.into() })
    }
}

type QuorumRead = Pin<Box<dyn Future<Output = Result<Option<i64>, Error>> + Send>>;

struct Follower<V: View> {
    shared: Arc<Shared>,
    view: V,
    mark: Mark,
    events: mpsc::Sender<Result<V::Event, Error>>,
    /// The revision to go on at.
    next: i64,
    /// Everything up to this revision was delivered by the present connection, or lay before it.
    delivered: i64,
    /// The newest revision that a quorum told, until it is delivered.
    wanted: Option<i64>,
    /// The member to ask.
    member: usize,
    /// Whether the present connection has delivered anything.
    alive: bool,
}

impl<V: View> Follower<V> {
    fn new(shared: Arc<Shared>, view: V, contents: &Contents, events: mpsc::Sender<Result<V::Event, Error>>) -> Self {
        let (mark, revision, member) = (contents.mark, contents.revision, shared.servers.preferred());
        let next = revision + 1;
        Self { shared, view, mark, events, next, delivered: revision, wanted: None, member, alive: false }
    }

    async fn run(mut self, contents: Contents) -> End {
        if let Err(end) = self.replay(contents).await {
            return end;
        }
        let mut pause = BACKOFF.0;
        loop {
            let Err(end) = self.connection().await else { return End::Dropped };
            let End::Broken(why) = end else { return end };
            let member = self.shared.servers.url(self.member);
            if std::mem::take(&mut self.alive) {
                pause = BACKOFF.0;
                info!(member, next = self.next, why, "a watch is interrupted; it will go on where it was");
            } else {
                debug!(member, next = self.next, why, "a watch is still interrupted");
            }
            self.member = self.shared.servers.next(self.member);
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn replay(&mut self, contents: Contents) -> Result<(), End> {
        let mut kvs = contents.kvs;
        kvs.sort_by_key(etcd_client::KeyValue::mod_revision);
        let as_of = Version::new(self.mark.store, keys::unsigned(contents.revision));
        for event in self.view.replay(&self.shared.keys, self.mark.store, &kvs, as_of) {
            self.emit(event).await?;
        }
        Ok(())
    }

    /// Follows one connection to its end.
    async fn connection(&mut self) -> Result<(), End> {
        let mut stream = self.open().await?;
        let mut ticks = tokio::time::interval(self.shared.config.progress_interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        // Whether something has changed since the last tick.
        let mut talks = false;
        self.wanted = None;
        self.delivered = self.next - 1;
        let mut asking: Option<QuorumRead> = Some(self.ask_quorum());
        loop {
            tokio::select! {
                message = stream.message() => {
                    unanswered = 0;
                    talks |= self.message(message).await?;
                }
                told = answer(&mut asking) => {
                    asking = None;
                    self.quorum(told)?;
                    if !talks && self.behind() {
                        self.request_progress(&mut stream).await?;
                    }
                }
                _ = ticks.tick() => {
                    // Two ticks without an answer are a dead member.
                    if unanswered == 2 {
                        self.shared.servers.reconnect(self.member).await;
                        return Err(End::Broken("no sign of life".to_owned()));
                    }
                    // What brings changes need not be asked how far it is, as long as it keeps up by them.
                    if !std::mem::take(&mut talks) || self.behind() {
                        unanswered += 1;
                        self.request_progress(&mut stream).await?;
                    }
                    // What a quorum said two ticks ago is no proof of now.
                    self.wanted = None;
                    if asking.is_none() {
                        asking = Some(self.ask_quorum());
                    }
                }
            }
            self.in_step().await?;
        }
    }

    async fn request_progress(&self, stream: &mut WatchStream) -> Result<(), End> {
        let asked = tokio::time::timeout(self.shared.config.progress_interval(), stream.request_progress());
        match asked.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(End::Broken("the connection takes no requests".to_owned())),
        }
    }

    /// Makes sure that the store is the same and has not fallen back, then opens the stream.
    async fn open(&mut self) -> Result<WatchStream, End> {
        match self.ask_quorum().await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(other_store()),
            Err(err) => return Err(outage(err)),
        }
        let (start, end) = self.view.range(&self.shared.keys);
        // From a revision that exists: etcd tells no progress to a watch that begins in the future.
        let options = WatchOptions::new().with_range(end).with_start_revision(self.next - 1);
        let opening = async {
            let client = self.shared.servers.client(self.member).await?;
            client.watch_client().max_decoding_message_size(LARGEST_ANSWER).watch(start, Some(options)).await
        };
        match tokio::time::timeout(self.shared.config.request_timeout(), opening).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(err)) => Err(self.client_error(err).await),
            Err(_) => {
                self.shared.servers.reconnect(self.member).await;
                Err(End::Broken("no answer in time".to_owned()))
            }
        }
    }

    /// Asks a quorum for the newest revision; `None` where the store is another one.
    fn ask_quorum(&self) -> QuorumRead {
        // A quorum that knows less than was delivered has lost it.
        let (shared, mark) = (Arc::clone(&self.shared), self.mark.having_seen(self.next - 1));
        Box::pin(async move {
            let call = Call::new("watch");
            let key = shared.keys.store();
            let asked = shared.txn(&call, Repeat::Harmless, mark, &key, None, Vec::new());
            match shared.servers.bounded(&call, asked).await? {
                Answer::Done { revision, .. } if shared.store.current() == Some(mark.store) => Ok(Some(revision)),
                Answer::Done { .. } | Answer::Stored { .. } | Answer::OtherStore => Ok(None),
            }
        })
    }

    fn quorum(&mut self, told: Result<Option<i64>, Error>) -> Result<(), End> {
        match told {
            Ok(Some(newest)) => self.wanted = Some(newest),
            Ok(None) => return Err(other_store()),
            // The stream may go on without; only it is not in step.
            Err(err @ Error::Denied { .. }) => return Err(End::Failed(err)),
            Err(err) => debug!(%err, "no quorum vouches for a watch"),
        }
        Ok(())
    }

    /// Whether a quorum knows of more than was delivered.
    fn behind(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.delivered < wanted)
    }

    async fn in_step(&mut self) -> Result<(), End> {
        if self.wanted.is_some_and(|wanted| self.delivered >= wanted) {
            self.wanted = None;
            self.emit(V::in_step()).await?;
        }
        Ok(())
    }

    /// True: it brought changes, not only a sign of life.
    async fn message(&mut self, message: Result<Option<WatchResponse>, etcd_client::Error>) -> Result<bool, End> {
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return Err(End::Broken("the server ended the stream".to_owned())),
            Err(err) => return Err(self.client_error(err).await),
        };
        if response.canceled() {
            return Err(self.canceled(&response).await);
        }
        self.alive = true;
        let shown = response.header().map_or(0, |header| header.revision());
        let begun = self.next;
        let fresh: Vec<&Event> =
            response.events().iter().filter(|event| event.kv().is_some_and(|kv| kv.mod_revision() >= begun)).collect();
        match response.events().last().and_then(Event::kv) {
            Some(last) => {
                let last = last.mod_revision();
                let (told, store) = self.view.changes(&self.shared, self.mark, &fresh);
                for event in told {
                    self.emit(event).await?;
                }
                if store == Store::Another {
                    self.shared.store.is_another(self.mark);
                    return Err(other_store());
                }
                self.delivered = self.delivered.max(last);
                self.next = self.next.max(last + 1);
            }
            // Progress: everything up to the shown revision was delivered before.
            None if !response.created() => {
                self.delivered = self.delivered.max(shown);
                if self.shared.honest_progress.load(Ordering::Relaxed) {
                    self.next = self.next.max(shown + 1);
                }
            }
            None => {}
        }
        Ok(!response.events().is_empty())
    }

    async fn canceled(&self, response: &WatchResponse) -> End {
        if response.compact_revision() > 0 {
            let compacted = response.compact_revision();
            return End::lost(format!("revision {} was compacted away, etcd begins at {compacted}", self.next));
        }
        let why = response.cancel_reason();
        if why.contains("permission denied") {
            return End::Failed(Error::Denied { backend: crate::BACKEND, why: why.to_owned() });
        }
        // An invalid token among others: authenticate anew.
        self.shared.servers.reconnect(self.member).await;
        End::Broken(format!("the server cancelled the watch: {why}"))
    }

    async fn client_error(&self, err: etcd_client::Error) -> End {
        match error::fate(&err) {
            Fate::Denied => End::Failed(error::translate("watch", err, dc_controlplane::Outcome::Unchanged)),
            Fate::StaleToken => {
                self.shared.servers.reconnect(self.member).await;
                End::Broken(err.to_string())
            }
            Fate::NotSent | Fate::Refused | Fate::Lost => End::Broken(err.to_string()),
        }
    }

    async fn emit(&self, event: V::Event) -> Result<(), End> {
        self.events.send(Ok(event)).await.map_err(|_| End::Dropped)
    }
}

/// The answer of the question that is being asked; never, where none is.
async fn answer(asking: &mut Option<QuorumRead>) -> Result<Option<i64>, Error> {
    match asking {
        Some(read) => read.await,
        None => std::future::pending().await,
    }
}

fn other_store() -> End {
    End::lost("the store is another one, or has fallen back behind what was delivered")
}

fn outage(err: Error) -> End {
    if err.is_outage() { End::Broken(err.to_string()) } else { End::Failed(err) }
}

/// The records and intents.
struct Records;

impl View for Records {
    type Event = WatchEvent;

    fn range(&self, keys: &Keys) -> (Vec<u8>, Vec<u8>) {
        keys.range()
    }

    fn replay(&self, keys: &Keys, store: StoreId, kvs: &[KeyValue], as_of: Version) -> Vec<WatchEvent> {
        let shown = kvs.iter().filter_map(|kv| match keys.place(kv.key()) {
            Place::Record(id) => Some(keys::record(store, &id, kv).map_or_else(WatchEvent::Skipped, WatchEvent::Put)),
            Place::Intent(id) => Some(keys::intent(store, id, kv).map_or_else(WatchEvent::Skipped, WatchEvent::Intent)),
            Place::Foreign(corrupt) => Some(WatchEvent::Skipped(corrupt)),
            Place::Store | Place::Gone(_) => None,
        });
        shown.chain([WatchEvent::ReplayDone { as_of }]).collect()
    }

    fn changes(&self, shared: &Shared, mark: Mark, events: &[&Event]) -> (Vec<WatchEvent>, Store) {
        // A goodbye stands in the revision of the deletion that it explains.
        let mut goodbyes: HashSet<(DataCenterId, i64)> = HashSet::new();
        for event in events.iter().filter(|event| event.event_type() == EventType::Put) {
            if let Some(kv) = event.kv()
                && let Place::Gone(id) = shared.keys.place(kv.key())
            {
                goodbyes.insert((id, kv.mod_revision()));
            }
        }
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            let Some(kv) = event.kv() else { continue };
            let (store, revision) = (mark.store, kv.mod_revision());
            let put = event.event_type() == EventType::Put;
            let event = match shared.keys.place(kv.key()) {
                Place::Record(id) if put => {
                    keys::record(store, &id, kv).map_or_else(WatchEvent::Skipped, WatchEvent::Put)
                }
                // Removed by hand looks like expiry: both leave no goodbye.
                Place::Record(id) => {
                    let said = goodbyes.contains(&(id.clone(), revision));
                    let why = if said { Removal::Deregistered } else { Removal::Expired };
                    WatchEvent::Removed { id, version: keys::version(store, kv), why }
                }
                Place::Intent(id) if put => {
                    keys::intent(store, id, kv).map_or_else(WatchEvent::Skipped, WatchEvent::Intent)
                }
                // Removed by hand: none means serve (P8).
                Place::Intent(id) => {
                    let version = keys::version(store, kv);
                    WatchEvent::Intent(HeldIntent { id, intent: Intent::default(), version })
                }
                Place::Store if put && keys::store_id(kv) == Ok(store) => continue,
                Place::Store => return (told, Store::Another),
                Place::Foreign(corrupt) if put => WatchEvent::Skipped(corrupt),
                Place::Foreign(_) | Place::Gone(_) => continue,
            };
            if let WatchEvent::Skipped(corrupt) = &event {
                warn!(%corrupt, "something that cannot be decoded was written");
            }
            told.push(event);
        }
        (told, Store::Same)
    }

    fn in_step() -> WatchEvent {
        WatchEvent::InStep
    }
}

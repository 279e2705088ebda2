//! Watches: a bounded backlog for each watcher, filled by the store and emptied by a stream.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{faults::Faults, store::MemoryStore};
use crate::{Error, WatchEvent, ownership::DocumentEvent};

/// What a watch yields.
pub(super) trait Event: Clone + Send + Unpin + 'static {
    /// How it says that nothing was missed.
    const IN_STEP: Self;
}

impl Event for WatchEvent {
    const IN_STEP: Self = Self::InStep;
}

impl Event for DocumentEvent {
    const IN_STEP: Self = Self::InStep;
}

/// What a watcher has not read yet.
pub(super) struct Backlog<E> {
    events: VecDeque<E>,
    /// How many events may wait; the replay does not count.
    limit: usize,
    lost: Option<String>,
}

impl<E> Backlog<E> {
    pub(super) fn new(replay: Vec<E>, limit: usize) -> Self {
        Self { limit: limit + replay.len(), events: replay.into(), lost: None }
    }
}

/// One watcher, as the store and the stream share it.
pub(super) struct Shared<E> {
    backlog: Mutex<Backlog<E>>,
    woken: Notify,
}

impl<E: Event> Shared<E> {
    pub(super) fn new(backlog: Backlog<E>) -> Self {
        Self { backlog: Mutex::new(backlog), woken: Notify::new() }
    }

    pub(super) fn tell<'a>(&self, events: impl Iterator<Item = &'a E>) {
        let mut backlog = self.backlog.lock();
        for event in events {
            if backlog.lost.is_some() {
                break;
            }
            if backlog.events.len() >= backlog.limit {
                backlog.events.clear();
                backlog.lost = Some(format!("more than {} events were waiting", backlog.limit));
            } else {
                backlog.events.push_back(event.clone());
            }
        }
        drop(backlog);
        self.wake();
    }

    pub(super) fn lose(&self, why: &str) {
        let mut backlog = self.backlog.lock();
        backlog.events.clear();
        backlog.lost = Some(why.to_owned());
        drop(backlog);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    fn next(&self) -> Option<Result<E, Error>> {
        let mut backlog = self.backlog.lock();
        if let Some(why) = &backlog.lost {
            return Some(Err(Error::WatchLost { why: why.clone() }));
        }
        backlog.events.pop_front().map(Ok)
    }
}

/// The reading end.
pub(super) struct Cursor<E> {
    pub(super) watcher: Arc<Shared<E>>,
    pub(super) store: MemoryStore,
    pub(super) faults: Arc<Faults>,
    /// How often to say that it is in step while there is nothing else to say.
    pub(super) in_step_every: Duration,
    pub(super) ended: bool,
}

impl<E: Event> Cursor<E> {
    /// The stream of what `self` reads; it ends after an error.
    pub(super) fn into_watch(self) -> BoxStream<'static, Result<E, Error>> {
        Box::pin(stream::unfold(self, |mut cursor| async move {
            if cursor.ended {
                return None;
            }
            let event = cursor.read().await;
            cursor.ended = event.is_err();
            Some((event, cursor))
        }))
    }

    async fn read(&mut self) -> Result<E, Error> {
        let mut idle = Duration::ZERO;
        loop {
            let audible = if self.faults.is_cut_off() { None } else { self.store.audible() };
            let Some(until_expiry) = audible else {
                // Silence until the server, or the way to it, is back; that wakes us.
                self.watcher.woken.notified().await;
                idle = Duration::ZERO;
                continue;
            };
            if until_expiry == Some(Duration::ZERO) {
                self.store.tick();
            }
            if let Some(event) = self.watcher.next() {
                return event;
            }
            if idle >= self.in_step_every {
                return Ok(E::IN_STEP);
            }
            let pause = until_expiry.map_or(self.in_step_every, |left| left.min(self.in_step_every));
            // Never a spin, should the store's clock stand still.
            let pause = pause.min(self.in_step_every - idle).max(Duration::from_millis(1));
            if tokio::time::timeout(pause, self.watcher.woken.notified()).await.is_err() {
                idle += pause;
            }
        }
    }
}

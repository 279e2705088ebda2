//! State that goes along when a global actor is handed over.

use std::future::Future;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{Codec, Postcard, to_bytes},
    message::RemoteActor,
    system::WeakSystem,
};

/// Actors that take their state along when they move in good order: a drain, a node that leaves, a failback (G5).
///
/// Say so where the kind is registered: `.snapshots()`. Without it, a moved actor starts again from its arguments,
/// and only its identity and its epoch have moved. After a crash there is no state to take along, with it or without.
///
/// ```
/// # use dc_actor::{RemoteActor, Snapshot};
/// # #[derive(kameo::Actor, RemoteActor, serde::Serialize, serde::Deserialize)]
/// # #[remote(crate = "dc_actor")] struct Counter { count: u64 }
/// impl Snapshot for Counter {
///     type State = u64;
///
///     async fn snapshot(&mut self) -> Result<u64, Self::Error> {
///         Ok(self.count)
///     }
///
///     async fn restore(&mut self, count: u64) -> Result<(), Self::Error> {
///         self.count = count;
///         Ok(())
///     }
/// }
/// ```
pub trait Snapshot: RemoteActor {
    /// What goes along. It travels from node to node, never through the store, by serde (postcard).
    type State: Serialize + DeserializeOwned + Send;

    /// Called after the last message that was accepted here, while this is still the owner: the place to flush to a
    /// storage, too. The actor goes on as it was if the move is given up, so nothing may be moved out of it for good.
    ///
    /// # Errors
    ///
    /// The move is given up, and the owner stays.
    fn snapshot(&mut self) -> impl Future<Output = Result<Self::State, Self::Error>> + Send;

    /// Called at the new owner after `on_start`, before the first message.
    ///
    /// # Errors
    ///
    /// It has failed to start.
    fn restore(&mut self, state: Self::State) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// [`Snapshot`] of `A`, where the type need not be known to have it.
pub(crate) struct Snapshots<A> {
    pub(crate) take: for<'a> fn(&'a mut A) -> BoxFuture<'a, Result<Bytes, String>>,
    pub(crate) restore: for<'a> fn(&'a mut A, WeakSystem, Bytes) -> BoxFuture<'a, Result<(), String>>,
}

impl<A> Clone for Snapshots<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Snapshots<A> {}

impl<A: Snapshot> Snapshots<A> {
    pub(crate) fn new() -> Self {
        Self { take: take::<A>, restore: restore::<A> }
    }
}

fn take<A: Snapshot>(actor: &mut A) -> BoxFuture<'_, Result<Bytes, String>> {
    Box::pin(async move {
        let state = actor.snapshot().await.map_err(|err| format!("{err:?}"))?;
        to_bytes::<Postcard, _>(&state).map_err(|err| err.to_string())
    })
}

fn restore<A: Snapshot>(actor: &mut A, system: WeakSystem, state: Bytes) -> BoxFuture<'_, Result<(), String>> {
    Box::pin(async move {
        let state: A::State =
            system.while_reading(|| Postcard::decode(state)).map_err(|err| format!("unreadable state: {err}"))?;
        actor.restore(state).await.map_err(|err| format!("{err:?}"))
    })
}

//! What kameo's `Context` lacks: who this actor is, its system, and asks whose answers come back as messages.

use std::{future::IntoFuture, pin::pin, sync::Arc};

use futures::FutureExt;

use crate::{
    activation::{Activation, OwnershipView},
    error::AskError,
    host::{Cell, Context, Core, Meant, Message, Port, Reply},
    message::{Handles, RemoteActor, RemoteMessage},
    reference::Ref,
    send::Ask,
    system::ActorSystem,
};

/// Extends the [`Context`] of handlers. In the prelude.
///
/// # Panics
///
/// Every method panics in an actor that was not started by an [`ActorSystem`] (kameo's own `spawn`), and in tasks
/// that a handler spawned: neither has a place in a system. [`Activation::current`] asks without panicking.
pub trait ContextExt<A: RemoteActor> {
    /// This actor, as others refer to it: may be sent in messages.
    fn this(&self) -> Ref<A>;

    /// The system that this actor lives in.
    fn system(&self) -> ActorSystem;

    /// By which proof this actor works, if it is global: its epoch is the fencing token.
    fn ownership(&self) -> Option<OwnershipView>;

    /// Sends an ask whose answer comes back to this actor as a message of its own, made by `then`. Does not wait.
    ///
    /// The message is sent in order with all others that this actor sends (R1). While the answer is outstanding a
    /// grain is not idle. If this actor has stopped or was restarted meanwhile, the answer is a dead letter.
    /// The message that `then` makes goes from this actor to itself: its type need not be listed or able to travel.
    fn request<B, M, N>(
        &self,
        ask: Ask<B, M>,
        then: impl FnOnce(Result<<B as Handles<M>>::Ok, AskError<<B as Handles<M>>::Err>>) -> N + Send + 'static,
    ) where
        A: Message<N>,
        N: Send + 'static,
        B: Handles<M>,
        M: RemoteMessage;
}

const OUTSIDE: &str = "this actor was not started by an ActorSystem, or this is not its own task";

impl<A: RemoteActor, R: Reply> ContextExt<A> for Context<A, R> {
    fn this(&self) -> Ref<A> {
        // Documented above.
        Activation::current().and_then(|here| here.this()).expect(OUTSIDE)
    }

    fn system(&self) -> ActorSystem {
        // Documented above.
        Activation::current().and_then(|here| here.system()).expect(OUTSIDE)
    }

    fn ownership(&self) -> Option<OwnershipView> {
        // Documented above.
        Activation::current().expect(OUTSIDE).ownership()
    }

    fn request<B, M, N>(
        &self,
        ask: Ask<B, M>,
        then: impl FnOnce(Result<<B as Handles<M>>::Ok, AskError<<B as Handles<M>>::Err>>) -> N + Send + 'static,
    ) where
        A: Message<N>,
        N: Send + 'static,
        B: Handles<M>,
        M: RemoteMessage,
    {
        // Documented above.
        let here = Activation::current().expect(OUTSIDE);
        let cell = here.cell::<Cell<A>>().expect(OUTSIDE);
        let (core, epoch) = (here.core().clone(), here.epoch());
        // Counted as work in hand, so that a grain is not put to rest before its answer.
        let busy = Busy::new(&core);
        let mut asking = ask.into_future();
        // The first step puts the message on its way, before anything that this actor sends later.
        let early = pin!(&mut asking).now_or_never();
        tokio::spawn(async move {
            let answer = match early {
                Some(answer) => answer,
                None => asking.await,
            };
            let message = then(answer);
            let name = std::any::type_name::<N>();
            let meant = Meant::Incarnation(epoch);
            let sent = match busy.take_over() {
                true => cell.send_inside(name, message, Port::Tell, None, meant).await,
                false => cell.send(name, message, Port::Tell, None, meant).await,
            };
            if let Err(refused) = sent {
                core.dead_letter(name, refused.error);
            }
        });
    }
}

/// Holds the gate of an actor from closing for idleness.
struct Busy(Option<Arc<Core>>);

impl Busy {
    fn new(core: &Arc<Core>) -> Self {
        // It is made on the actor's own task: its work belongs to what a held gate lets finish.
        Self(core.gate.enter_held().then(|| core.clone()))
    }

    /// Leaves the place inside the gate to the answer; false where there is none.
    fn take_over(mut self) -> bool {
        self.0.take().is_some()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(core) = self.0.take() {
            core.leave();
        }
    }
}

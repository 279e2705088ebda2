//! Where actors live: on kameo. The only module of this crate that knows kameo.
//!
//! Owns how a message enters an actor, what becomes of it when it cannot run, and how actors are started, restarted
//! and stopped. Knows nothing of names, nodes or datacenters.
//!
//! A plain kameo `tell` or `ask` leaves no place to see a panic, a deadline or a message that never ran. So
//! messages enter as `Signal::Callback`s: the callback checks deadline and epoch, runs `Actor::on_message` under
//! `catch_unwind`, and tells the asker of a panic before it lets the panic go on to kameo; dropped unrun, it says so.
//! That also passes by kameo's start-up buffer, which loses messages behind a panic.
//! What is relied on (kameo 0.22) is covered by the tests of this module.
//!
//! Reading order: [`Core`] (what all cells share), [`envelope`] (a message on its way), [`cell`] (the place of one
//! actor), [`life`] (start, restart, stop).

mod answer;
mod cell;
mod core;
mod envelope;
mod gate;
mod life;
#[cfg(test)]
mod tests;

pub use kameo::{
    Actor,
    actor::ActorRef,
    error::Infallible,
    message::{Context, Message},
    reply::Reply,
};

pub(crate) use self::{
    answer::open_answer,
    cell::{AnyCell, Cell, Refused},
    core::{Core, Host, Key, Owned},
    envelope::{Envelope, LinkPort, Meant, Outcome, Port},
    life::{Birth, Ended, Remake, start},
};
pub use self::{
    answer::{BoxAnswer, Refusal},
    life::RestartPolicy,
};

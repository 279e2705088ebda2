//! The dialling side: one [`Link`] is three lanes to one node, from handshake to end.
//!
//! Reading order: [`link`], [`ask`] (one waiting asker), [`pending`] (correlation), [`writer`] with [`interner`],
//! [`reader`], [`dial`].

mod ask;
mod dial;
mod interner;
mod link;
mod pending;
mod reader;
mod writer;

pub(crate) use ask::{Ask, Waiting, ask_pair};
pub(crate) use dial::dial;
pub(crate) use link::{Lane, Link, TICK};
pub(crate) use writer::{Out, Sending, check_size};

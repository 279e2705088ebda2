//! The derives of multidc: [`RemoteActor`](macro@RemoteActor) and [`RemoteMessage`](macro@RemoteMessage).
//!
//! Owns how `#[remote(..)]` is read and what the derives expand to. Knows
//! nothing of actors, codecs or wires: it only writes the names of traits that
//! `dc-actor` owns (reached through the crate `multidc`, or through the path
//! given as `#[remote(crate = "..")]`).
//!
//! Reading order: `attributes` (what may be written), `expand` (what comes of it).

use proc_macro::TokenStream;

mod attributes;
mod expand;

/// Gives an actor type its wire name: the *kind* under which other nodes know it.
///
/// The name is the type's bare name, unless `#[remote(name = "..")]` says otherwise. It is what
/// nodes of different builds agree on, so renaming a type without keeping its name is a change of the wire.
///
/// ```text
/// #[derive(Actor, RemoteActor)]
/// #[remote(name = "analytics-worker")]
/// struct Worker { .. }
/// ```
///
/// Attributes: `name = ".."` (1 to 63 bytes, no control characters, no blank at either end),
/// `crate = ".."` (path of `multidc` where it is known under another name).
/// Generic types are refused: a kind is one concrete type.
#[proc_macro_derive(RemoteActor, attributes(remote))]
pub fn derive_remote_actor(input: TokenStream) -> TokenStream {
    expand::remote_actor(input.into()).unwrap_or_else(|err| err.into_compile_error()).into()
}

/// Gives a message type its wire name and its codec.
///
/// ```text
/// #[derive(Serialize, Deserialize, RemoteMessage)]
/// #[remote(name = "analyse")]
/// struct Analyse { day: u32 }
///
/// #[derive(prost::Message, RemoteMessage)]
/// #[remote(codec = prost, reply = serde)]
/// struct Ingest { #[prost(bytes = "bytes", tag = "1")] rows: Bytes }
/// ```
///
/// Attributes: `name = ".."` (default the type's bare name; rules as for an actor's),
/// `codec = serde | prost | path::To::Codec` (default `serde`: postcard),
/// `reply = ..` (the codec of the answer; default the message's own),
/// `crate = ".."`. Generic types are refused: a message is one concrete type.
#[proc_macro_derive(RemoteMessage, attributes(remote))]
pub fn derive_remote_message(input: TokenStream) -> TokenStream {
    expand::remote_message(input.into()).unwrap_or_else(|err| err.into_compile_error()).into()
}

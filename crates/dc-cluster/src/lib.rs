//! One datacenter's members, its leader and its name directory.

mod config;
mod discovery;
mod events;
mod identity;
mod membership;
mod seal;
pub(crate) mod directory {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Eviction;
}
pub use config::*;

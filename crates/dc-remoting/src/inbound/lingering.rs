//! Links that have ended and left something behind: messages that no mailbox took yet, asks that run.
//!
//! The bounds of a link end with it. Without these, who comes back again and again has as many windows as it likes.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{InLink, reader::most_asks};
use crate::{PeerIdentity, RemotingConfig};

/// What one ended link counts for at least: it costs something, whatever is left of it.
const LEAST: usize = 64 << 10;

/// What all nodes of one datacenter may have left behind together, as a multiple of what one may: ids are only claimed.
const OF_ALL: usize = 16;

/// What ended links have left behind.
#[derive(Default)]
pub(crate) struct Lingering(Mutex<Vec<Weak<InLink>>>);

/// A sum of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Held {
    bytes: usize,
    asks: usize,
}

impl Held {
    fn add(&mut self, (bytes, asks): (usize, usize)) {
        self.bytes = self.bytes.saturating_add(bytes.max(LEAST));
        self.asks = self.asks.saturating_add(asks);
    }

    /// More than `times` one link may hold.
    fn exceeds(self, times: usize, config: &RemotingConfig) -> bool {
        self.bytes > config.link_window.saturating_mul(times) || self.asks > most_asks(config).saturating_mul(times)
    }
}

impl Lingering {
    /// A link has ended.
    pub(super) fn left(&self, link: &Arc<InLink>) {
        if link.held() == (0, 0) {
            return;
        }
        let mut links = self.0.lock();
        // Seldom: the list stays short, or grows to what its bounds allow.
        if links.len() == links.capacity() {
            links.retain(still_holds);
        }
        links.push(Arc::downgrade(link));
    }

    /// Whether this peer, or its datacenter, has left so much behind that it has to wait before it gets another link:
    /// more than a link's worth, or [`OF_ALL`] times as much.
    pub(super) fn is_too_much(&self, peer: &PeerIdentity, config: &RemotingConfig) -> bool {
        let (of_peer, of_dc) = self.sums(peer);
        of_peer.exceeds(1, config) || of_dc.exceeds(OF_ALL, config)
    }

    fn sums(&self, peer: &PeerIdentity) -> (Held, Held) {
        let key = peer.key();
        let (mut of_peer, mut of_dc) = (Held::default(), Held::default());
        self.0.lock().retain(|link| {
            let Some(link) = link.upgrade() else { return false };
            let held = link.held();
            if link.identity.dc == peer.dc && held != (0, 0) {
                of_dc.add(held);
                if link.identity.key() == key {
                    of_peer.add(held);
                }
            }
            held != (0, 0)
        });
        (of_peer, of_dc)
    }

    /// How many links have something left here.
    pub(crate) fn count(&self) -> usize {
        let mut links = self.0.lock();
        links.retain(still_holds);
        links.len()
    }
}

fn still_holds(link: &Weak<InLink>) -> bool {
    link.upgrade().is_some_and(|link| link.held() != (0, 0))
}

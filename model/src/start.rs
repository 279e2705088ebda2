//! How a run begins.

use crate::{
    config::{Config, NODES},
    state::{Entry, Left, Life, Node, Session, SessionDoc, State, Storage, Store, Title},
};

impl State {
    /// The start: node 0 owns under epoch 1, all have a session, those of the others were renewed long ago.
    pub fn start(config: &Config) -> Self {
        let old = config.oldest();
        let mut sessions = vec![SessionDoc::Absent; NODES * usize::from(config.sessions)];
        let node = |number: usize| {
            let (id, version) = (session(number, 0), version_at_start(number));
            Node {
                session: Life::Open { id, version, sent: if number == 0 { 0 } else { old } },
                opened: 1,
                title: if number == 0 { Title::Held { epoch: 1 } } else { Title::None },
                given_up: 0,
                watch: None,
                proof: None,
                work: None,
                memory: (number == 0 && config.memory).then_some(0),
                offered: None,
            }
        };
        for (number, doc) in sessions.iter_mut().take(NODES).enumerate() {
            let sent = if number == 0 { 0 } else { old };
            *doc = SessionDoc::Alive { version: version_at_start(number), sent };
        }
        let mut nodes = std::array::from_fn(node);
        if config.restarted {
            sessions[0] = SessionDoc::Tombstone { version: version_at_start(0), proved: true };
            nodes[0].session = Life::None;
            nodes[0].title = Title::None;
        }
        let entry = Entry { version: 1, owner: Some(0), epoch: 1, handed: false };
        Self {
            store: Store {
                head: version_at_start(NODES - 1),
                sessions,
                entries: vec![entry],
                highest: (1, 0),
                fell: false,
            },
            nodes,
            requests: Vec::new(),
            offers: Vec::new(),
            storage: Storage { fence: (1, 0), value: 0, accepted: 0, wrong: false },
            acknowledged: 0,
            backup: None,
            rolled_back: None,
            left: Left { crashes: config.crashes, drops: config.drops, bumps: config.bumps },
            note: None,
        }
    }
}

/// A node's session of that number.
pub(crate) fn session(node: usize, number: u8) -> Session {
    // Few nodes, few sessions.
    node as Session + number * NODES as Session
}

fn version_at_start(node: usize) -> u8 {
    node as u8 + 2
}

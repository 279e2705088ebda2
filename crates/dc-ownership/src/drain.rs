//! Handing over what is owned: how it is asked for, followed, and given up.

use tokio::sync::{mpsc, watch};

use crate::handle::Command;

/// Where what is drained goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainScope {
    /// This node leaves: to other nodes of its datacenter, or, where there is none, elsewhere. The default.
    #[default]
    Node,
    /// The datacenter leaves: elsewhere only.
    DataCenter,
}

/// How to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainOptions {
    /// Where things go.
    pub scope: DrainScope,
    /// How many are handed over at once; as in the options of this node by default.
    pub at_once: Option<usize>,
}

impl DrainOptions {
    /// This node leaves.
    pub fn node() -> Self {
        Self::default()
    }

    /// The whole datacenter leaves. Each of its nodes drains itself.
    pub fn data_center() -> Self {
        Self { scope: DrainScope::DataCenter, ..Self::default() }
    }
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Handed over, or found to be owned elsewhere by now.
    pub moved: usize,
    /// Still here, those under way included.
    pub left: usize,
    /// Attempts that failed. What failed is tried again.
    pub failed: usize,
    /// Still here because no datacenter that lives may have them: they stay until one comes, or the drain is aborted.
    pub stuck: usize,
    /// Whether it has ended.
    pub end: Option<DrainEnd>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainEnd {
    /// Nothing is owned here any more.
    Done,
    /// It was aborted: what had been handed over stays there, the rest stays here.
    Aborted,
    /// Another drain, or [`set_taking`](crate::Ownership::set_taking), replaced it.
    Replaced,
    /// The session was lost: what was left is taken over by others.
    SessionLost,
}

/// A drain under way. Dropping it changes nothing: it goes on.
#[derive(Debug)]
pub struct DrainHandle {
    pub(crate) number: u64,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
}

impl DrainHandle {
    /// How far it is now.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The next change of its progress; `None` once it has ended and the end was told. Cancel safe.
    pub async fn next(&mut self) -> Option<Progress> {
        self.progress.changed().await.ok()?;
        Some(*self.progress.borrow_and_update())
    }

    /// Gives it up: what is being handed over is settled first, the rest stays here, and this node takes again.
    /// [`done`](Self::done) tells when nothing is under way any more.
    pub fn abort(&self) {
        // A driver that has ended drains nothing.
        let _ = self.commands.send(Command::AbortDrain { number: self.number });
    }

    /// Waits until it has ended, one way or the other.
    pub async fn done(&mut self) -> Progress {
        loop {
            let progress = *self.progress.borrow_and_update();
            if progress.end.is_some() || self.progress.changed().await.is_err() {
                return progress;
            }
        }
    }
}

//! Global names: what a claim keeps, so that another datacenter can start the actor again.

use bytes::Bytes;
use dc_core::{DataCenterId, Epoch};

use crate::{ids::SessionId, policy::Policy, session::Holder};

/// The most bytes of arguments that a claim keeps. They lie where the store lies: what may not leave a jurisdiction is
/// kept elsewhere, and a reference to it here.
pub const MAX_ARGS: usize = 64 * 1024;

/// What is to be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSpec {
    /// The name: 1 to 255 bytes, no control characters.
    pub name: String,
    /// The kind's wire name.
    pub kind: String,
    /// The arguments, as the kind's codec wrote them; at most [`MAX_ARGS`].
    pub args: Bytes,
    /// What was declared of it.
    pub policy: Policy,
}

/// A name that is owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameEntry {
    /// What was claimed.
    pub spec: NameSpec,
    /// Where its owner is; `None` while its session is not known here, or gone.
    pub holder: Option<Holder>,
    /// The owner's session.
    pub session: SessionId,
    /// The owner's datacenter.
    pub data_center: DataCenterId,
    /// The fencing token of this ownership.
    pub epoch: Epoch,
    /// The actor's number on its node; 0 until it has started.
    pub actor: u64,
}

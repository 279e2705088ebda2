//! The routing table: published snapshots of the control plane, kept in step by one task.

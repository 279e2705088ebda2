//! The registrar of a datacenter's record, and the life of the routing table's task.

//! dc-controlplane over NATS JetStream.

//! dc-controlplane over etcd.

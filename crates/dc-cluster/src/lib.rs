//! One datacenter's members, its leader and its name directory.

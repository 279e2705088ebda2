//! Nodes of one datacenter in one process, over real UDP sockets and real links.

mod directory;
mod membership;
mod support;

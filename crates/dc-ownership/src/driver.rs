//! Carries out what the core decides: requests, orders, answers.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    handle::{Command, Parts, Shared},
    order::Order,
};

pub(crate) async fn run(
    parts: Parts,
    shared: Arc<Shared>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    orders: mpsc::UnboundedSender<Order>,
) {
    let _ = (parts, shared, orders);
    while commands.recv().await.is_some() {}
}

pub(crate) fn late(operation: &'static str, after: Duration) -> dc_controlplane::Error {
    let outcome = dc_controlplane::Outcome::Unknown;
    dc_controlplane::Error::Timeout { backend: "store", operation, after, outcome }
}

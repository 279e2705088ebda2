//! O2 with many writers at a time.

use std::sync::Arc;

use futures::future::join_all;

use super::super::{Harness, ground::Ground};
use super::ground::*;
use crate::{
    Expected,
    ownership::{Document, Keep, OwnershipStore, Swap, Write},
};

/// Clients that race, and writers by client.
const CLIENTS: usize = 4;
const WRITERS: usize = 32;

async fn clients<H: Harness>(ground: &Ground<H>) -> (Vec<H::Plane>, Vec<Arc<dyn OwnershipStore>>) {
    let (mut planes, mut documents) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let (plane, of) = ground.client().await;
        planes.push(plane);
        documents.push(of);
    }
    (planes, documents)
}

/// All writers name `expected` at once; exactly one is accepted, and every other is told of it, or of what came later.
async fn race(clients: &[Arc<dyn OwnershipStore>], at: &str, expected: Expected, round: usize) -> Document {
    let at = key(at);
    let writes = (0..WRITERS).map(|n| {
        let (client, at) = (&clients[n % CLIENTS], &at);
        async move {
            let text = body(&format!("round {round}, writer {n}"));
            (text.clone(), client.compare_and_set(at, expected, text, Keep::Forever).await.expect("a write"))
        }
    });
    let outcomes = join_all(writes).await;
    let mut won = outcomes.iter().filter_map(|(body, swap)| match swap {
        Swap::Done(version) => Some(Document { key: at.clone(), body: body.clone(), version: *version }),
        Swap::Refused(_) => None,
    });
    let winner = won.next().expect("O2: nobody won");
    assert_eq!(won.next(), None, "O2: two writes that name one version were accepted; the first: {winner:?}");
    for (_, swap) in &outcomes {
        if let Swap::Refused(told) = swap {
            assert_eq!(told.as_ref(), Some(&winner), "O2: the refused are told what refused them");
        }
    }
    winner
}

/// O2: of many writes that name one version exactly one is accepted; the others are told of it.
pub async fn o2_racing_document_writes_have_one_winner(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_planes, clients) = clients(&ground).await;
    let mut held = create(&*clients[0], "n/a", "first").await;
    for round in 0..5 {
        held = race(&clients, "n/a", Expected::Version(held.version), round).await;
    }
    assert_eq!(ground.seen(&*clients[0], &held.key, held.version).await, held);
}

/// O2: of many creations exactly one is accepted, also where there was something before.
pub async fn o2_racing_document_creations_have_one_winner(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_planes, clients) = clients(&ground).await;
    for round in 0..5 {
        let held = race(&clients, "n/a", Expected::Absent, round).await;
        remove(&*clients[round % CLIENTS], &held).await;
    }
}

/// O2: of a removal and a write that name one version one is accepted.
pub async fn o2_a_removal_that_races_with_a_write_has_one_winner(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_planes, clients) = clients(&ground).await;
    let mut held = create(&*clients[0], "n/a", "first").await;
    for round in 0..8 {
        let expected = Expected::Version(held.version);
        let write = clients[1].compare_and_set(&held.key, expected, body("written"), Keep::Forever);
        let removal = clients[2].remove(&held.key, held.version);
        let (write, removal) = match round % 2 {
            0 => futures::join!(write, removal),
            _ => {
                let (removal, write) = futures::join!(removal, write);
                (write, removal)
            }
        };
        held = match (write.expect("a write"), removal.expect("a removal")) {
            (Swap::Done(version), Swap::Refused(Some(told))) => {
                assert_eq!((told.version, &told.body), (version, &body("written")), "O2: told what refused it");
                told
            }
            (Swap::Refused(None), Swap::Done(_)) => create(&*clients[0], "n/a", "anew").await,
            other => panic!("O2: one of the two is accepted, the other told why: {other:?}"),
        };
    }
}

/// O2: a counter that many clients raise by compare-and-set loses no increment.
pub async fn o2_a_counter_loses_no_increment(harness: impl Harness) {
    const EACH: usize = 10;
    let ground = Ground::new(harness).await;
    let (_planes, clients) = clients(&ground).await;
    let start = create(&*clients[0], "n/counter", "0").await;
    let raising = clients.iter().enumerate().map(|(n, client)| {
        let mut seen = start.clone();
        async move {
            for _ in 0..EACH {
                loop {
                    let text = std::str::from_utf8(&seen.body).expect("text");
                    let next: usize = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
                    let wanted = body(&format!("{} by {n}", next + 1));
                    let expected = Expected::Version(seen.version);
                    let write = client.compare_and_set(&seen.key, expected, wanted.clone(), Keep::Forever).await;
                    match write.expect("a write") {
                        Swap::Done(version) => {
                            seen = Document { body: wanted, version, ..seen };
                            break;
                        }
                        Swap::Refused(told) => {
                            let told = told.expect("O2: it is never removed");
                            assert!(told.version > seen.version, "O2: refused, and told of {told:?}");
                            seen = told;
                        }
                    }
                }
            }
            seen
        }
    });
    let last = ground.within("the increments", join_all(raising)).await;
    let newest = last.into_iter().max_by_key(|document| document.version.revision).expect("some");
    let total = format!("{} by ", CLIENTS * EACH);
    assert!(newest.body.starts_with(total.as_bytes()), "O2: {:?} after {total}all", newest.body);
    assert_eq!(ground.seen(&*clients[0], &newest.key, newest.version).await, newest);
}

/// O2: of many writers of the same documents, each of whom writes all of them together, one is accepted for each.
pub async fn o2_racing_writes_of_many_documents_have_one_winner_each(harness: impl Harness) {
    let ground = Ground::new(harness).await;
    let (_planes, clients) = clients(&ground).await;
    let count = clients[0].at_once().clamp(1, 16);
    let mut held = Vec::new();
    for n in 0..count {
        held.push(create(&*clients[0], &format!("n/{n}"), "first").await);
    }
    for round in 0..5 {
        let writers = (0..CLIENTS * 2).map(|n| {
            let text = body(&format!("round {round}, writer {n}"));
            let write = |held: &Document| {
                let expected = Expected::Version(held.version);
                Write { key: held.key.clone(), expected, body: text.clone() }
            };
            let (client, writes) = (&clients[n % CLIENTS], held.iter().map(write).collect());
            async move { (text.clone(), client.compare_and_set_all(writes).await.expect("they are answered")) }
        });
        let outcomes = join_all(writers).await;
        for (at, held) in held.iter_mut().enumerate() {
            let won = outcomes.iter().filter_map(|(body, swaps)| match swaps[at] {
                Swap::Done(version) => Some(Document { key: held.key.clone(), body: body.clone(), version }),
                Swap::Refused(_) => None,
            });
            let won: Vec<Document> = won.collect();
            assert_eq!(won.len(), 1, "O2: one winner for each document: {won:?}");
            for (_, swaps) in &outcomes {
                if let Swap::Refused(told) = &swaps[at] {
                    assert_eq!(told.as_ref(), won.first(), "O2: the refused are told what refused them");
                }
            }
            held.clone_from(&won[0]);
        }
    }
}

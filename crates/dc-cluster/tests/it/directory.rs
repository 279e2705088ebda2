//! Names over real links.

use std::time::Duration;

use dc_cluster::{Claim, ClusterEvent, DirectoryError};
use dc_core::NodeId;
use tokio::time::timeout;

use crate::support::{BOUND, Network, Node, agree, cluster};

const WAIT: Duration = Duration::from_secs(10);

async fn claim(node: &Node, key: &str, actor: u64, request: u128) -> Claim {
    node.cluster.directory().claim(key, "worker", actor, request, WAIT).await.expect("an answer")
}

async fn holder(node: &Node, key: &str) -> Option<NodeId> {
    node.cluster.directory().lookup(key, WAIT).await.expect("an answer").map(|entry| entry.holder)
}

/// A key that this node answers for.
fn key_at(node: &Node) -> String {
    let directory = node.cluster.directory();
    let at_home = |key: &String| directory.home(key).is_some_and(|home| home.node == node.node);
    (0..10_000).map(|n| format!("a/{n}")).find(at_home).expect("some key")
}

#[tokio::test]
async fn a_name_is_claimed_once_found_from_everywhere_and_free_again_after_release() {
    let nodes = cluster(3, &Network::default()).await;
    let Claim::Granted(entry) = claim(&nodes[0], "a/worker", 7, 0).await else { panic!("free") };
    assert_eq!((entry.holder, entry.actor, &entry.endpoint), (nodes[0].node, 7, &nodes[0].endpoint()));
    for node in &nodes {
        assert_eq!(claim(node, "a/worker", 8, 0).await, Claim::Taken(entry.clone()));
        assert_eq!(holder(node, "a/worker").await, Some(nodes[0].node));
        assert_eq!(holder(node, "a/nobody").await, None);
    }
    nodes[0].cluster.directory().release("a/worker", 99).await;
    assert_eq!(holder(&nodes[1], "a/worker").await, Some(nodes[0].node), "99 does not hold it");
    nodes[0].cluster.directory().release("a/worker", 7).await;
    assert_eq!(holder(&nodes[1], "a/worker").await, None);
    assert!(matches!(claim(&nodes[1], "a/worker", 9, 0).await, Claim::Granted(_)));
}

#[tokio::test]
async fn a_hundred_claims_at_once_have_one_winner() {
    let nodes = cluster(3, &Network::default()).await;
    let claims = (0..100u64).map(|actor| claim(&nodes[actor as usize % 3], "a/contested", actor, 0));
    let claims = futures::future::join_all(claims).await;
    let granted = claims.iter().filter(|claim| matches!(claim, Claim::Granted(_))).count();
    assert_eq!(granted, 1);
}

#[tokio::test]
async fn l3_a_request_that_is_repeated_on_another_node_gets_the_first_answer() {
    let nodes = cluster(3, &Network::default()).await;
    let Claim::Granted(first) = claim(&nodes[0], "a/worker", 7, 42).await else { panic!("free") };
    assert_eq!(claim(&nodes[1], "a/worker", 8, 42).await, Claim::Same(first.clone()));
    nodes[0].cluster.directory().release("a/worker", 7).await;
    assert_eq!(claim(&nodes[2], "a/worker", 9, 42).await, Claim::Same(first), "also after it has stopped");
    nodes[0].cluster.directory().abandon("a/worker", 7).await;
    assert!(matches!(claim(&nodes[2], "a/worker", 9, 43).await, Claim::Granted(_)));
}

#[tokio::test]
async fn names_survive_the_loss_of_the_node_that_answers_for_them() {
    let mut nodes = cluster(4, &Network::default()).await;
    // The home of the name is the second node, its host the first.
    let key = key_at(&nodes[1]);
    assert!(matches!(claim(&nodes[0], &key, 7, 0).await, Claim::Granted(_)));
    nodes.remove(1).kill();
    // At once, from the backup or the new home; and when the loss is known.
    assert_eq!(holder(&nodes[2], &key).await, Some(nodes[0].node));
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(holder(&nodes[1], &key).await, Some(nodes[0].node));
    assert!(matches!(claim(&nodes[2], &key, 8, 0).await, Claim::Taken(_)));
}

#[tokio::test]
async fn the_names_of_a_killed_node_are_free_when_its_loss_is_known() {
    let mut nodes = cluster(3, &Network::default()).await;
    assert!(matches!(claim(&nodes[2], "a/worker", 7, 0).await, Claim::Granted(_)));
    nodes.remove(2).kill();
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    assert!(matches!(claim(&nodes[0], "a/worker", 8, 0).await, Claim::Granted(_)));
}

#[tokio::test]
async fn a2_the_older_registration_remains_after_a_heal_and_the_younger_is_told() {
    let network = Network::default();
    let mut nodes = cluster(5, &network).await;
    let mut evictions = nodes[4].cluster.directory().evictions();
    network.cut(&[&nodes[3], &nodes[4]], 1);
    agree(&[&nodes[3], &nodes[4]]).await;
    agree(&[&nodes[0], &nodes[1], &nodes[2]]).await;
    let Claim::Granted(older) = claim(&nodes[0], "a/worker", 1, 0).await else { panic!("free on this side") };
    let Claim::Granted(younger) = claim(&nodes[4], "a/worker", 2, 0).await else { panic!("free on that side") };
    network.heal();
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    let eviction = timeout(Duration::from_secs(5), evictions.recv()).await.expect("A2: within 5 s of agreeing again");
    let eviction = eviction.expect("the directory runs");
    assert_eq!((&eviction.lost, &eviction.kept), (&younger, &older));
    for node in &nodes {
        assert_eq!(holder(node, "a/worker").await, Some(nodes[0].node));
    }
    let told = ClusterEvent::NameEvicted(Box::new(eviction));
    nodes[4].hears("the eviction", |event| *event == told).await;
}

#[tokio::test]
async fn a_node_that_has_not_joined_or_has_left_says_so() {
    let network = Network::default();
    let nodes = cluster(2, &network).await;
    nodes[1].cluster.leave().await;
    let directory = nodes[1].cluster.directory();
    assert_eq!(directory.lookup("a/x", WAIT).await, Err(DirectoryError::Left));
    agree(&[&nodes[0]]).await;
    assert_eq!(holder(&nodes[0], "a/x").await, None);
    let mut plan = crate::support::Plan::new(&[nodes[0].endpoint()]);
    plan.config = plan.config.founding_wait(Duration::from_secs(60));
    // A seed that never answers: the wait is long, and a lookup's own bound holds.
    plan.network.cut(&[&nodes[0]], 1);
    let outside = plan.start().await;
    let short = Duration::from_millis(50);
    let err = timeout(BOUND, outside.cluster.directory().lookup("a/x", short)).await.expect("bounded");
    assert!(matches!(err, Err(DirectoryError::Timeout { .. })), "{err:?}");
    assert!(outside.cluster.directory().home("a/x").is_none());
}

#[tokio::test]
async fn bad_names_are_refused_where_they_enter() {
    let nodes = cluster(1, &Network::default()).await;
    let directory = nodes[0].cluster.directory();
    for key in [String::new(), "x".repeat(1025)] {
        let err = directory.claim(&key, "worker", 1, 0, WAIT).await.expect_err("refused");
        assert!(matches!(&err, DirectoryError::Invalid(err) if err.field == "name"), "{err}");
        directory.lookup(&key, WAIT).await.expect_err("refused");
    }
    let err = directory.claim("a/x", &"k".repeat(257), 1, 0, WAIT).await.expect_err("refused");
    assert!(matches!(&err, DirectoryError::Invalid(err) if err.field == "kind"), "{err}");
}

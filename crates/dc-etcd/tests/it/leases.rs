//! Leases: none left behind, none lost, whoever wrote the record and whatever was lost on the way.

use dc_controlplane::{ControlPlane, Error, Expected, Writer, codec};
use dc_core::{DataCenterRecord, DataCenterState, Intent, IntentKind};

use crate::{
    proxy::Proxy,
    samples::*,
    server::{Etcd, shared_single},
};

/// Waits until the store has `count` leases.
async fn settle_at(client: &etcd_client::Client, count: usize) {
    until(&format!("{count} leases"), async || (leases(client).await == count).then_some(())).await;
}

#[tokio::test]
async fn no_lease_is_left_behind() {
    let etcd = Etcd::single();
    let ns = namespace();
    let client = raw(&[etcd.url()]).await;
    let (plane, rival) = (plane(&[etcd.url()], &ns).await, plane(&[etcd.url()], &ns).await);
    let held = registered(&plane, &record("dc-1", 3_600)).await;
    settle_at(&client, 1).await;
    for _ in 0..3 {
        let refused = rival.register(&held, Expected::Absent).await;
        assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    }
    settle_at(&client, 1).await;
    let version = rival.register(&held, Expected::Version(held.version)).await.expect("register");
    settle_at(&client, 1).await;
    let by = Writer::Owner { node: held.owner.node, seen: version };
    plane.set_state(held.id(), DataCenterState::Draining, by).await.expect("set_state");
    settle_at(&client, 1).await;
    let stored = plane.get(held.id()).await.expect("get").expect("stands");
    plane.deregister(held.id(), stored.version).await.expect("deregister");
    settle_at(&client, 0).await;
    let keys = client.kv_client().get(format!("{ns}/"), Some(etcd_client::GetOptions::new().with_prefix())).await;
    let keys: Vec<_> = keys.expect("get").kvs().iter().map(|kv| kv.key_str().expect("text").to_owned()).collect();
    assert_eq!(keys, [format!("{ns}/{}", codec::STORE_ID)], "a goodbye goes with its lease");
}

#[tokio::test]
async fn a_dropped_registration_leaves_no_lease() {
    let etcd = Etcd::single();
    let client = raw(&[etcd.url()]).await;
    let proxy = Proxy::before(etcd.addr());
    let plane = plane(&[proxy.url()], &namespace()).await;
    proxy.lose_answers();
    {
        let wanted = record("dc-1", 3_600);
        let registering = plane.register(&wanted, Expected::Absent);
        tokio::pin!(registering);
        // Dropped while it waits for its lease.
        tokio::select! {
            done = &mut registering => panic!("without an answer: {done:?}"),
            () = async { settle_at(&client, 1).await } => {}
        }
    }
    settle_at(&client, 0).await;
}

#[tokio::test]
async fn p11_a_lost_answer_to_the_write_is_told_as_unknown_and_its_repetition_leaves_one_lease() {
    let etcd = Etcd::single();
    let client = raw(&[etcd.url()]).await;
    let proxy = Proxy::before(etcd.addr());
    let plane = plane(&[proxy.url()], &namespace()).await;
    let wanted = record("dc-1", 3_600);
    // The key stands in the transaction, not in the grant before it.
    proxy.lose_answers_from(&format!("{}{}", codec::RECORDS, wanted.id()));
    let lost = plane.register(&wanted, Expected::Absent).await.expect_err("the answer was lost");
    assert!(lost.outcome_unknown() && lost.is_retryable(), "P11: {lost:?}");
    proxy.forward();
    let repeated = plane.register(&wanted, Expected::Absent).await;
    let held = match repeated {
        Err(Error::Conflict { stored: Some(stored), .. }) => *stored,
        other => panic!("P2: the first had landed, got {other:?}"),
    };
    assert!(held.same_content(&wanted), "P11: our own lost write, told by owner and epoch");
    settle_at(&client, 1).await;
    plane.heartbeat(&held).await.expect("the lost write's lease is known");
    let next = plane.register(&held, Expected::Version(held.version)).await.expect("register");
    settle_at(&client, 1).await;
    plane.deregister(held.id(), next).await.expect("deregister");
    settle_at(&client, 0).await;
}

#[tokio::test]
async fn p11_an_answer_that_one_member_lost_is_found_at_the_next() {
    let etcd = Etcd::single();
    let client = raw(&[etcd.url()]).await;
    let proxy = Proxy::before(etcd.addr());
    // Two ways to one server: answers by the first are lost.
    let plane = plane(&[proxy.url(), etcd.url()], &namespace()).await;
    let wanted = record("dc-1", 3_600);
    proxy.lose_answers_from(&format!("{}{}", codec::RECORDS, wanted.id()));
    let version = plane.register(&wanted, Expected::Absent).await.expect("the second attempt finds the first's write");
    let stored = plane.get(wanted.id()).await.expect("get").expect("stands");
    assert_eq!(stored, DataCenterRecord { version, ..wanted.clone() });
    settle_at(&client, 1).await;
    plane.deregister(wanted.id(), version).await.expect("deregister");
    settle_at(&client, 0).await;
}

#[tokio::test]
async fn p8_an_intent_whose_answer_was_lost_is_not_sent_twice() {
    let etcd = Etcd::single();
    let proxy = Proxy::before(etcd.addr());
    let plane = plane(&[proxy.url(), etcd.url()], &namespace()).await;
    let id = record("dc-1", 60).id().clone();
    proxy.lose_answers_from(&format!("{}{id}", codec::INTENTS));
    let before = etcd.requests()["Txn"];
    let lost = plane.set_intent(&id, &Intent::new(IntentKind::Drain, "ann", "")).await.expect_err("lost");
    assert!(lost.outcome_unknown(), "P11: {lost:?}");
    assert_eq!(etcd.requests()["Txn"], before + 1, "a second could undo a newer intent of someone else");
    assert_eq!(plane.list_all().await.expect("list").intents.len(), 1, "it had landed");
}

#[tokio::test]
async fn p11_a_lost_answer_to_the_grant_changed_nothing() {
    let etcd = Etcd::single();
    let client = raw(&[etcd.url()]).await;
    let proxy = Proxy::before(etcd.addr());
    let plane = plane(&[proxy.url()], &namespace()).await;
    let wanted = record("dc-1", 3_600);
    proxy.lose_answers();
    let lost = plane.register(&wanted, Expected::Absent).await.expect_err("the answer was lost");
    assert!(lost.is_outage() && !lost.outcome_unknown(), "P11: no write was sent: {lost:?}");
    proxy.forward();
    let held = registered(&plane, &wanted).await;
    settle_at(&client, 1).await;
    plane.heartbeat(&held).await.expect("heartbeat");
}

#[tokio::test]
async fn p11_lost_answers_to_other_writes_are_told_as_unknown_and_repeating_them_is_safe() {
    let etcd = Etcd::single();
    let proxy = Proxy::before(etcd.addr());
    let plane = plane(&[proxy.url()], &namespace()).await;
    let held = registered(&plane, &record("dc-1", 3_600)).await;
    let intent = Intent::new(IntentKind::Drain, "ann", "new rack");

    proxy.lose_answers();
    let lost = plane.set_intent(held.id(), &intent).await.expect_err("lost");
    assert!(lost.outcome_unknown(), "P11: {lost:?}");
    proxy.forward();
    // A connection that was cut is noticed by the first request on it, whose outcome is unknown as well.
    until("the repeated intent", async || plane.set_intent(held.id(), &intent).await.ok()).await;

    proxy.lose_answers();
    let lost = plane.heartbeat(&held).await.expect_err("lost");
    assert!(lost.outcome_unknown(), "P11: the lease may have been renewed: {lost:?}");
    proxy.forward();
    assert_eq!(plane.heartbeat(&held).await.expect("repeated"), held.version);

    proxy.lose_answers();
    let lost = plane.get(held.id()).await.expect_err("lost");
    assert!(lost.is_outage() && !lost.outcome_unknown(), "a read changes nothing: {lost:?}");
    let lost = plane.deregister(held.id(), held.version).await.expect_err("lost");
    assert!(lost.outcome_unknown(), "P11: {lost:?}");
    proxy.forward();
    plane.deregister(held.id(), held.version).await.expect("P10: already gone is success");
    assert_eq!(plane.get(held.id()).await.expect("get"), None);
}

#[tokio::test]
async fn p3_a_strangers_record_without_a_lease_gets_one_by_its_next_heartbeat() {
    let url = [shared_single().url()];
    let ns = namespace();
    let plane = plane(&url, &ns).await;
    let kv = raw(&url).await.kv_client();
    let stray = record("dc-1", 1);
    let mut kv = kv;
    kv.put(format!("{ns}/records/{}", stray.id()), codec::encode_record(&stray), None).await.expect("put");
    let read = plane.get(stray.id()).await.expect("get").expect("stands");
    let version = plane.heartbeat(&read).await.expect("heartbeat");
    assert!(version > read.version, "it was written again, with a lease");
    plane.heartbeat(&DataCenterRecord { version, ..read }).await.expect("heartbeat");
    until("it to expire", async || plane.get(stray.id()).await.expect("get").is_none().then_some(())).await;
}

#[tokio::test]
async fn a_corrupt_record_blocks_its_key_and_says_so() {
    let url = [shared_single().url()];
    let ns = namespace();
    let plane = plane(&url, &ns).await;
    let wanted = record("dc-1", 60);
    let key = format!("{ns}/records/{}", wanted.id());
    let mut kv = raw(&url).await.kv_client();
    kv.put(key.clone(), "{", None).await.expect("put");
    for refused in [plane.register(&wanted, Expected::Absent).await.err(), plane.get(wanted.id()).await.err()] {
        assert!(matches!(&refused, Some(Error::Corrupt(corrupt)) if corrupt.key == key), "{refused:?}");
    }
    kv.delete(key, None).await.expect("delete");
    plane.register(&wanted, Expected::Absent).await.expect("register");
}

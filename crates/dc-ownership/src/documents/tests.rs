//! Overrides in documents of slots.

use dc_core::Selector;

use super::*;

fn owner(number: u64, dc: &str) -> Owner {
    let (session, epoch) = (SessionId(u128::MAX - u128::from(number)), Epoch::GREATEST);
    let data_center = dc.parse().expect("legal");
    Owner { session, data_center, epoch, handed: true, offer: (1 << 53) - 1, ttl_ms: 3_600_000 }
}

/// Identities of the first document.
fn identities(length: usize) -> impl Iterator<Item = String> {
    let rest = "x".repeat(length.saturating_sub(12));
    (0..).map(move |number| format!("cart/{number:07}{rest}")).filter(|identity| Slot::of(identity).document() == 0)
}

#[test]
fn overrides_read_back() {
    let of = Override { owner: owner(7, "eu/dc-1"), to: Selector::region("eu").label("tier", "gold") };
    let overrides: BTreeMap<_, _> = identities(20).map(|identity| (identity, of.clone())).take(3).collect();
    let rows: Vec<_> = (0..64).map(|slot| (slot % 3 > 0).then(|| owner(slot % 3, "us/dc-1"))).collect();
    let document = SlotsDocument::new(&rows, &overrides, 5);
    let read = SlotsDocument::read(&document.write(), 0).expect("legal");
    assert_eq!((read.rows(), read.overrides()), (rows, overrides));
    assert_eq!(read.owners.len(), 3);
}

#[test]
fn what_is_no_override_makes_the_document_unreadable() {
    let identity = identities(20).next().expect("there are many");
    let body = |identity: &str, of: &str| {
        let slots = vec!["null"; 64].join(",");
        format!("{{\"v\":1,\"owners\":[],\"slots\":[{slots}],\"overrides\":{{\"{identity}\":{of}}},\"nonce\":1}}")
    };
    let none = body(&identity, "{\"at\":[0,1],\"to\":{}}")
        .replace("\"owners\":[]", "\"owners\":[{\"session\":\"00000000000000000000000000000001\",\"dc\":\"us/a\"}]");
    assert!(SlotsDocument::read(none.as_bytes(), 0).is_ok());
    assert!(SlotsDocument::read(none.as_bytes(), 1).is_err(), "of another document");
    for of in ["7", "{}", "{\"at\":[0,1],\"to\":{}}", "{\"at\":[],\"to\":{}}", "{\"at\":[0,1],\"to\":{\"x\":1}}"] {
        assert!(SlotsDocument::read(body(&identity, of).as_bytes(), 0).is_err(), "{of}");
    }
}

#[test]
fn a_full_document_is_one_that_every_store_takes() {
    let longest = "%".repeat(63);
    let dc = DataCenter::new(longest.as_str()).region(longest.as_str()).zone(longest.as_str()).build().expect("legal");
    let dc = dc.id().as_str();
    assert_eq!(dc.len(), DataCenterId::MAX_LEN);
    for (length, region) in
        [(20, "eu"), (510, "eu"), (40, "a-region-with-a-long-name-that-is-still-legal-in-every-place")]
    {
        let to = Selector::region(region).label("a", "b".repeat(length));
        let mut overrides: BTreeMap<String, Override> = BTreeMap::new();
        for (number, identity) in (0..).zip(identities(length)) {
            if is_full(overrides.iter().map(|(identity, of)| (identity.as_str(), &of.to)), &identity, &to) {
                break;
            }
            overrides.insert(identity, Override { owner: owner(number, dc), to: to.clone() });
        }
        let rows: Vec<_> = (1_000..1_064).map(|number| Some(owner(number, dc))).collect();
        let size = SlotsDocument::new(&rows, &overrides, u64::MAX).write().len();
        println!("{} overrides of {length} bytes: {size} bytes", overrides.len());
        assert!(overrides.len() >= 16 && size <= dc_controlplane::ownership::MAX_DOCUMENT, "{size}");
    }
}

#[test]
fn g3_a_document_with_an_epoch_above_the_greatest_is_no_document() {
    let above = Epoch(Epoch::GREATEST.0 + 1);
    let session = |floor| {
        let dc = DataCenter::new("dc-1").build().expect("legal");
        let document = SessionDocument::new(NodeId(1), dc, "10.0.0.1:7946".parse().expect("legal"), 1_000);
        SessionDocument::read(&SessionDocument { floor, ..document }.write())
    };
    assert!(session(Epoch::GREATEST).is_ok() && session(above).is_err());
    let slots = |epoch| {
        let rows: Vec<_> = (0..64).map(|_| Some(Owner { epoch, ..owner(1, "us/dc-1") })).collect();
        SlotsDocument::read(&SlotsDocument::new(&rows, &BTreeMap::new(), 1).write(), 0)
    };
    assert!(slots(Epoch::GREATEST).is_ok());
    let error = slots(above).expect_err("above");
    assert!(error.contains("the greatest"), "{error}");
    let identity = identities(20).next().expect("there are many");
    let placed = |epoch| {
        let of = Override { owner: Owner { epoch, ..owner(1, "us/dc-1") }, to: Selector::region("eu") };
        let overrides = [(identity.clone(), of)].into_iter().collect();
        SlotsDocument::read(&SlotsDocument::new(&vec![None; 64], &overrides, 1).write(), 0)
    };
    assert!(placed(Epoch::GREATEST).is_ok() && placed(above).is_err());
    let name = |base: u64, epoch, revision| {
        let policy = Policy::default();
        let spec = NameSpec { name: "x".into(), kind: "k".into(), args: Bytes::new(), policy };
        let of = owner(1, "us/dc-1");
        let created = NameDocument::created(&spec, (of.session, of.data_center.clone()), 1_000, Epoch(base), 1);
        let body = if epoch > Epoch(0) { created.owned(&Owner { epoch, ..of }, 2) } else { created };
        let (key, version) = (name_key("x").expect("legal"), Version::new(dc_core::StoreId(1), revision));
        NameDocument::read(&Document { key, body: body.write(), version })
    };
    assert!(name(0, Epoch::GREATEST, 5).is_ok() && name(0, above, 5).is_err());
    let none = Epoch(0);
    assert!(name(Epoch::GREATEST.0 - 5, none, 5).is_ok());
    assert!(name(Epoch::GREATEST.0 - 5, none, 6).is_err() && name(u64::MAX, none, 6).is_err());
}

//! Overrides in documents of slots.

use dc_core::Selector;

use super::*;

fn owner(number: u64, dc: &str) -> Owner {
    let (session, epoch) = (SessionId(u128::MAX - u128::from(number)), Epoch(u64::MAX));
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

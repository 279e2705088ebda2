//! The hand-written types and the `.proto` say the same.

use bytes::Bytes;
use dc_remoting::proto::*;
use prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, ReflectMessage, Value};

fn pool() -> DescriptorPool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let files = protox::compile(["multidc/link/v1/link.proto"], [root]).expect("the .proto compiles");
    DescriptorPool::from_file_descriptor_set(files).expect("a pool")
}

/// A frame in which every field of every type is set.
fn full() -> Frame {
    let bytes = Bytes::from_static(b"0123456789abcdef");
    let text = || "text".to_owned();
    let identity =
        Identity { system: text(), data_center: text(), node: bytes.clone(), advertised: text(), store: bytes.clone() };
    Frame {
        hello: Some(Hello {
            protocol: 1,
            oldest_protocol: 2,
            identity: Some(identity.clone()),
            link: bytes.clone(),
            lane: LaneKind::Bulk.into(),
        }),
        welcome: Some(Welcome {
            protocol: 1,
            identity: Some(identity),
            link_window: 2,
            max_payload: 3,
            max_call_body: 4,
            max_pairs: 5,
            max_symbols: 6,
        }),
        symbols: vec![SymbolDef { number: 1, text: text() }],
        chunks: vec![Chunk { transfer: 1, data: bytes.clone() }],
        envelopes: vec![Envelope {
            correlation: 1,
            pair: 2,
            to: 3,
            kind: 4,
            message: 5,
            epoch: 6,
            key: bytes.clone(),
            from: bytes.clone(),
            left_us: 7,
            payload: bytes.clone(),
            total: 8,
            transfer: 9,
            kind_text: text(),
            message_text: text(),
        }],
        calls: vec![Call { correlation: 1, service: 2, left_us: 3, body: bytes.clone() }],
        replies: vec![Reply {
            correlation: 1,
            outcome: Outcome::TooLarge.into(),
            status: 3,
            body: bytes.clone(),
            total: 4,
            transfer: 5,
        }],
        credits: vec![Credit { pair: 1, messages: 2, bytes: 3 }],
        ping: Some(Ping { nonce: 1 }),
        pong: Some(Ping { nonce: 2 }),
        goodbye: Some(Goodbye { why: text() }),
        want_credits: true,
    }
}

/// Every field that the `.proto` has is set, and nothing is there that it does not know.
fn check(message: &DynamicMessage) {
    let name = message.descriptor().full_name().to_owned();
    assert_eq!(message.unknown_fields().count(), 0, "{name}: the Rust type has fields that the .proto lacks");
    for field in message.descriptor().fields() {
        assert!(message.has_field(&field), "{}: missing in the Rust type, or of another wire type", field.full_name());
        match &*message.get_field(&field) {
            Value::Message(inner) => check(inner),
            Value::List(list) => list.iter().filter_map(Value::as_message).for_each(check),
            _ => {}
        }
    }
}

#[test]
fn the_types_have_the_fields_of_the_proto() {
    let frame = pool().get_message_by_name("multidc.link.v1.Frame").expect("Frame");
    let bytes = full().encode_to_vec();
    let dynamic = DynamicMessage::decode(frame, &bytes[..]).expect("decodes");
    check(&dynamic);
    assert_eq!(Frame::decode(&dynamic.encode_to_vec()[..]).expect("decodes"), full());
}

#[test]
fn the_types_have_the_field_names_of_the_proto() {
    let shown = format!("{:?}", full());
    for field in pool().all_messages().flat_map(|message| message.fields().collect::<Vec<_>>()) {
        assert!(shown.contains(&format!("{}: ", field.name())), "{} is named otherwise", field.full_name());
    }
}

#[test]
fn the_enums_have_the_values_of_the_proto() {
    let pool = pool();
    let values = |name: &str, prefix: &str| -> Vec<(i32, String)> {
        let found: EnumDescriptor = pool.get_enum_by_name(name).expect(name);
        let plain = |name: &str| name.trim_start_matches(prefix).replace('_', "");
        found.values().map(|value| (value.number(), plain(value.name()))).collect()
    };
    let shown = |value: &dyn std::fmt::Debug| format!("{value:?}").to_uppercase();
    for (number, name) in values("multidc.link.v1.LaneKind", "LANE_KIND_") {
        assert_eq!(shown(&LaneKind::try_from(number).expect("known")), name);
    }
    for (number, name) in values("multidc.link.v1.Outcome", "OUTCOME_") {
        assert_eq!(shown(&Outcome::try_from(number).expect("known")), name);
    }
    assert_eq!(LaneKind::try_from(4).ok(), None);
    assert_eq!(Outcome::try_from(5).ok(), None);
}

#[test]
fn the_service_is_the_one_of_the_proto() {
    let service = pool().get_service_by_name("multidc.link.v1.Link").expect("Link");
    let lane = service.methods().next().expect("Lane");
    assert_eq!(crate::raw::LANE, format!("/{}/{}", service.full_name(), lane.name()));
    assert!(lane.is_client_streaming() && lane.is_server_streaming());
}

//! What one protocol version writes, the next reads: `tests/wire/` against today's code, and what later versions may
//! add against today's readers (fault 19). `docs/wire.md` has the rules.

use bytes::Bytes;
use dc_controlplane::codec::{decode_intent, decode_record, encode_record};
use dc_core::{DataCenterState, IntentKind, Routability, routability};
use dc_remoting::{
    fuzzing,
    proto::{Frame, LaneKind},
};
use multidc_fuzz_targets::{
    files_in, records,
    wire::{self, VERSION},
};
use prost::Message;

/// The bytes of one file.
fn file(version: &str, name: &str) -> Vec<u8> {
    let path = wire::directory(version).join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|err| panic!("{}: {err}; `cargo xtask fuzz --write-wire` writes what is new", path.display()));
    wire::from_text(&text).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

#[test]
fn fault_19_what_version_1_wrote_is_read_as_it_was_meant() {
    for sample in wire::samples() {
        let bytes = file("v1", &sample.name);
        let read = (sample.read)(&bytes);
        let (shown, _) =
            read.unwrap_or_else(|| panic!("{}: version 1 wrote it, this build cannot read it", sample.name));
        assert_eq!(shown, sample.shown, "{}: version 1 meant something else", sample.name);
    }
}

#[test]
fn what_this_build_writes_is_what_its_version_wrote_byte_for_byte() {
    for sample in wire::samples().iter().filter(|sample| sample.deterministic) {
        assert_eq!(
            sample.bytes,
            file(VERSION, &sample.name),
            "{}: this build writes other bytes under the same version; docs/wire.md, \"Versions\", has what to do",
            sample.name
        );
        let (_, again) = (sample.read)(&sample.bytes).expect("it reads its own");
        assert_eq!(again, sample.bytes, "{}: read and written again", sample.name);
    }
}

#[test]
fn every_file_has_its_sample() {
    let names: Vec<String> = wire::samples().into_iter().map(|sample| sample.name).collect();
    let mut files = 0;
    for area in ["link", "gossip", "directory", "stored", "actor"] {
        for (file, _) in files_in(wire::directory(VERSION).join(area)) {
            let name = format!("{area}/{}", file.trim_end_matches(".hex"));
            assert!(names.contains(&name), "tests/wire/{VERSION}/{name}.hex: no code reads it any more");
            files += 1;
        }
    }
    assert_eq!(files, names.len());
}

/// Field 1000, a string: nothing that this version knows.
fn with_unknown_field(bytes: &[u8]) -> Bytes {
    let mut extended = bytes.to_vec();
    prost::encoding::string::encode(1000, &"from the future".to_owned(), &mut extended);
    extended.into()
}

#[test]
fn fault_19_fields_of_a_later_version_are_passed_over_in_frames() {
    for (name, frame) in fuzzing::samples() {
        let bytes = frame.encode_to_vec();
        assert_eq!(fuzzing::read_fast(&with_unknown_field(&bytes)).as_ref(), Ok(&frame), "{name}");
    }
    // Inside an entry too: field 5 of a frame is an envelope.
    let (_, ask) = fuzzing::samples().into_iter().find(|(name, _)| *name == "tell-in-the-clear").expect("a sample");
    let inner = with_unknown_field(&ask.envelopes[0].encode_to_vec());
    let mut bytes = Vec::new();
    prost::encoding::bytes::encode(5, &inner, &mut bytes);
    assert_eq!(fuzzing::read_fast(&bytes), Ok(ask));
    // A frame that holds nothing that is known says nothing.
    assert_eq!(fuzzing::read_fast(&with_unknown_field(&[])), Ok(Frame::default()));
}

#[test]
fn fault_19_a_hello_of_a_later_version_is_read_and_the_newest_common_version_chosen() {
    let local = fuzzing::local();
    let mut frame = fuzzing::write_hello(&local, 9, LaneKind::User);
    frame.hello.as_mut().expect("a hello").protocol = 7;
    let read = fuzzing::hello_of(&local, with_unknown_field(&frame.encode_to_vec())).expect("1 is common");
    assert_eq!((read.0.protocol, read.1, read.2), (1, 9, LaneKind::User));

    frame.hello.as_mut().expect("a hello").oldest_protocol = 6;
    let why = fuzzing::hello_of(&local, frame.encode_to_vec().into()).expect_err("no common version");
    assert!(why.contains("6 to 7") && why.contains("1 to 1"), "{why}");

    let mut frame = fuzzing::write_hello(&local, 9, LaneKind::User);
    frame.hello.as_mut().expect("a hello").lane = 4;
    let why = fuzzing::hello_of(&local, frame.encode_to_vec().into()).expect_err("a lane of a later version");
    assert!(why.contains("unknown lane (4)"), "{why}");
}

#[test]
fn fault_19_gossip_of_another_version_or_kind_is_dropped() {
    use dc_cluster::fuzzing::{close, directory_samples, open, read_answer, read_body, read_question};
    let mut datagram = close(&[1], b"a body");
    datagram[4] = 2;
    assert_eq!(open(&[1], &datagram), Err("Version".into()));
    // Kinds are numbered from 0: no packet, question or answer has this number.
    assert_eq!(read_body(&[200, 1, 0]), None);
    let (questions, answers) = directory_samples();
    // Its first two bytes are the clock (1,000); then the kind.
    let unknown_kind = |bytes: &[u8]| [&bytes[..2], &[200, 1], &bytes[3..]].concat();
    assert_eq!(read_question(&unknown_kind(&questions[0].1)), None);
    assert_eq!(read_answer(&unknown_kind(&answers[0].1)), None);
}

#[test]
fn fault_19_a_record_of_a_later_version_keeps_its_fields_and_takes_no_traffic() {
    let later = records::of_later_versions();
    let sample = records::sample(DataCenterState::Active);
    let record = decode_record("records/x", sample.id(), &later[0].1, sample.version).expect("read");
    assert_eq!(record.state, DataCenterState::Unknown);
    assert_eq!(routability(record.state, IntentKind::Serve), Routability::Nothing);
    let again: serde_json::Value = serde_json::from_slice(&encode_record(&record)).expect("JSON");
    assert_eq!(again["quota"], serde_json::json!({"spawns": 7, "kinds": ["a", {"b": null}]}));
    let intent = decode_intent("intents/x", &later[1].1).expect("read");
    // A wish that is not known: no new work, nothing is cut off.
    assert_eq!(intent.want, IntentKind::Drain);
}

#[test]
fn fault_19_ownership_documents_of_a_later_version_keep_their_fields_or_are_left_alone() {
    use dc_ownership::fuzzing::{of_later_versions, read_document};
    let later = of_later_versions();
    for (name, key, body) in &later {
        let written = read_document(key, body).map(|(_, written)| written);
        if name.ends_with("-format") || name.ends_with("-entry") || name.ends_with("-word") {
            assert_eq!(written, None, "{name}: read as if nothing were meant by it");
            continue;
        }
        let written = written.unwrap_or_else(|| panic!("{name} cannot be read"));
        let value = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).expect("JSON") };
        if name == "later-kind" {
            // Nobody writes another's again.
            continue;
        }
        assert_eq!(value(&written), value(body), "{name} is written back with all it holds");
    }
    for kind in ["session", "slots", "name", "kind"] {
        for what in ["", "-format"] {
            assert!(later.iter().any(|(name, ..)| *name == format!("later-{kind}{what}")), "{kind}{what}");
        }
    }
}

#[test]
fn fault_19_actor_bodies_of_a_later_version_are_read_and_unknown_ones_are_errors() {
    use dc_actor::fuzzing::{read_sample, samples};
    for (name, body) in samples() {
        let protobuf = !matches!(name, "reference" | "message-postcard");
        let extended = read_sample(name, with_unknown_field(&body));
        if protobuf {
            assert_eq!(extended.expect(name).0, read_sample(name, body).expect(name).0, "{name}");
        } else {
            // Postcard values are the users': whole, or refused.
            extended.expect_err(name);
        }
    }
    // A place that was found in a way that only a later version knows is none.
    let (shown, _) = read_sample("place", Bytes::from_static(&[0x08, 0x09])).expect("read");
    assert!(shown.contains('9'), "{shown}");
    // An error that only a later version knows keeps its text and whether it ran.
    let fault = [&[0x08, 1, 0x12, 2][..], b"no", &[0x1a, 2, 250, 1]].concat();
    let (shown, _) = read_sample("fault", fault.into()).expect("read");
    assert_eq!(shown, r#"Other { text: "no", not_run: true }"#);
}

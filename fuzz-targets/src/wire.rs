//! `tests/wire/`: what a protocol version writes, as files that later ones have to read.
//!
//! A file is text: lines that begin with `#` say what it is, the others hold its bytes as hexadecimal digits. The
//! value that it stands for is made by the sample of the same name in code. Files are written once and never changed.

use std::{fs, io, path::PathBuf};

use prost::Message;

/// The version whose files today's encoders write.
pub const VERSION: &str = "v1";

/// Reads bytes as one kind of thing: what was read, for people, and the bytes it is written as again.
pub type Reader = Box<dyn Fn(&[u8]) -> Option<(String, Vec<u8>)>>;

/// One thing that is written.
pub struct Sample {
    /// `area/name`.
    pub name: String,
    /// What it is, for people.
    pub shown: String,
    /// What this build writes.
    pub bytes: Vec<u8>,
    /// Reads any bytes as this kind of thing.
    pub read: Reader,
    /// Whether the same value is always written as the same bytes. A seal is not.
    pub deterministic: bool,
}

/// Where the files of `version` are.
pub fn directory(version: &str) -> PathBuf {
    crate::root().join("tests/wire").join(version)
}

/// Every frame, first frame, datagram, directory message, stored document and actor body of this version.
pub fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    links(&mut samples);
    gossip(&mut samples);
    stored(&mut samples);
    actors(&mut samples);
    for sample in &mut samples {
        let (shown, _) = (sample.read)(&sample.bytes).unwrap_or_else(|| panic!("{}: unreadable", sample.name));
        sample.shown = shown;
    }
    samples
}

fn add(
    samples: &mut Vec<Sample>,
    name: String,
    bytes: Vec<u8>,
    read: impl Fn(&[u8]) -> Option<(String, Vec<u8>)> + 'static,
) {
    samples.push(Sample { name, shown: String::new(), bytes, read: Box::new(read), deterministic: true });
}

fn links(samples: &mut Vec<Sample>) {
    use dc_remoting::{
        fuzzing,
        proto::{Frame, LaneKind},
    };
    for (name, frame) in fuzzing::samples() {
        let read = |bytes: &[u8]| Frame::decode(bytes).ok().map(|frame| (format!("{frame:?}"), frame.encode_to_vec()));
        add(samples, format!("link/{name}"), frame.encode_to_vec(), read);
        let fast = fuzzing::write_fast(&frame);
        // What writers write without the structs, where that differs or is all there is of the frame.
        if !fast.is_empty() && frame.symbols.is_empty() && frame.calls.is_empty() {
            let read = |bytes: &[u8]| {
                let frame = fuzzing::read_fast(bytes).ok()?;
                Some((format!("{frame:?}"), fuzzing::write_fast(&frame).into()))
            };
            add(samples, format!("link/{name}-in-place"), fast.into(), read);
        }
    }
    // First frames through the code that checks them.
    let hello = fuzzing::write_hello(&fuzzing::local(), 9, LaneKind::Bulk);
    add(samples, "link/hello-checked".into(), hello.encode_to_vec(), |bytes| {
        let read = fuzzing::hello_of(&fuzzing::local(), bytes.to_vec().into()).ok()?;
        Some((format!("{read:?}"), fuzzing::write_hello(&read.0, read.1, read.2).encode_to_vec()))
    });
}

fn gossip(samples: &mut Vec<Sample>) {
    use dc_cluster::fuzzing;
    for (name, body) in fuzzing::gossip_samples() {
        add(samples, format!("gossip/{name}"), body, fuzzing::read_body);
    }
    for (name, keys) in [("datagram-in-the-clear", &[][..]), ("datagram-sealed", &[1])] {
        let keys = keys.to_vec();
        let datagram = fuzzing::close(&keys, b"a body");
        samples.push(Sample {
            name: format!("gossip/{name}"),
            shown: String::new(),
            bytes: datagram,
            deterministic: keys.is_empty(),
            read: Box::new(move |bytes| {
                let body = fuzzing::open(&keys, bytes).ok()?;
                Some((String::from_utf8_lossy(&body).into_owned(), fuzzing::close(&keys, &body)))
            }),
        });
    }
    let (questions, answers) = fuzzing::directory_samples();
    for (name, bytes) in questions {
        add(samples, format!("directory/question-{name}"), bytes, fuzzing::read_question);
    }
    for (name, bytes) in answers {
        add(samples, format!("directory/answer-{name}"), bytes, fuzzing::read_answer);
    }
}

fn stored(samples: &mut Vec<Sample>) {
    use dc_controlplane::codec::{decode_intent, decode_record, encode_intent, encode_record};
    for (name, _, document) in dc_ownership::fuzzing::samples() {
        let read = move |bytes: &[u8]| dc_ownership::fuzzing::read_sample(name, bytes);
        add(samples, format!("stored/{name}"), document.into(), read);
    }
    for (name, document) in crate::records::samples() {
        add(samples, format!("stored/{name}"), document, move |bytes| {
            if name.starts_with("record") {
                let sample = crate::records::sample(dc_core::DataCenterState::Active);
                let record = decode_record("records/x", sample.id(), bytes, sample.version).ok()?;
                return Some((format!("{record:?}"), encode_record(&record)));
            }
            let intent = decode_intent("intents/x", bytes).ok()?;
            Some((format!("{intent:?}"), encode_intent(&intent)))
        });
    }
}

fn actors(samples: &mut Vec<Sample>) {
    use dc_actor::fuzzing;
    for (name, body) in fuzzing::samples() {
        add(samples, format!("actor/{name}"), body.into(), move |bytes| {
            let (shown, written) = fuzzing::read_sample(name, bytes.to_vec().into()).ok()?;
            Some((shown, written.into()))
        });
    }
}

/// The text of a file.
pub fn to_text(sample: &Sample) -> String {
    let mut text = format!("# {}, as protocol version {} writes it. Never changed.\n", sample.name, &VERSION[1..]);
    for line in sample.shown.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
    for line in sample.bytes.chunks(32) {
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&digits.join(" "));
        text.push('\n');
    }
    text
}

/// The bytes of a file's text.
///
/// # Errors
///
/// What is no pair of hexadecimal digits.
pub fn from_text(text: &str) -> Result<Vec<u8>, String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|pair| u8::from_str_radix(pair, 16).map_err(|_| format!("{pair:?} is no byte")))
        .collect()
}

/// Writes the files of [`VERSION`] that are not there yet; leaves the others alone. Gives how many are new.
///
/// # Errors
///
/// What the system says.
pub fn write_files() -> io::Result<usize> {
    let mut written = 0;
    for sample in samples() {
        let path = directory(VERSION).join(format!("{}.hex", sample.name));
        if path.exists() {
            continue;
        }
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(path, to_text(&sample))?;
        written += 1;
    }
    Ok(written)
}

//! First frames: who is there, which version is spoken, what the dialled grants.

use bytes::Bytes;
use dc_core::{Invalid, NodeId, StoreId, SystemName};
use prost::Message;

use super::{FirstFrame, Frame, Hello, Identity, LaneKind, Welcome};
use crate::{PROTOCOL, PeerIdentity, RemotingConfig};

/// The oldest protocol version that this build speaks.
const OLDEST_PROTOCOL: u32 = 1;

/// What the dialled lets the dialler do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) link_window: usize,
    pub(crate) max_payload: usize,
    pub(crate) max_call_body: usize,
    pub(crate) max_pairs: usize,
    pub(crate) max_symbols: usize,
}

/// A checked hello.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReadHello {
    pub(crate) identity: PeerIdentity,
    pub(crate) link: u128,
    pub(crate) lane: LaneKind,
}

fn wire_identity(identity: &PeerIdentity) -> Identity {
    Identity {
        system: identity.system.as_str().to_owned(),
        data_center: identity.dc.as_str().to_owned(),
        node: Bytes::copy_from_slice(&identity.node.0.to_be_bytes()),
        advertised: identity.advertised.to_string(),
        store: identity.store.map(|id| Bytes::copy_from_slice(&id.0.to_be_bytes())).unwrap_or_default(),
    }
}

fn number(field: &str, bytes: &[u8]) -> Result<u128, Invalid> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| Invalid::new(field, format!("{} bytes", bytes.len()), "must be 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

fn read_identity(identity: Option<Identity>, protocol: u32) -> Result<PeerIdentity, Invalid> {
    let wire = identity.ok_or_else(|| Invalid::new("identity", "", "must be present"))?;
    Ok(PeerIdentity {
        system: SystemName::new(&wire.system)?,
        dc: wire.data_center.parse()?,
        node: NodeId(number("node", &wire.node)?),
        advertised: wire.advertised.parse()?,
        store: if wire.store.is_empty() { None } else { Some(StoreId(number("store", &wire.store)?)) },
        protocol,
    })
}

pub(crate) fn hello_frame(local: &PeerIdentity, link: u128, lane: LaneKind) -> Frame {
    let hello = Hello {
        protocol: PROTOCOL,
        oldest_protocol: OLDEST_PROTOCOL,
        identity: Some(wire_identity(local)),
        link: Bytes::copy_from_slice(&link.to_be_bytes()),
        lane: lane.into(),
    };
    Frame { hello: Some(hello), ..Frame::default() }
}

pub(crate) fn welcome_frame(local: &PeerIdentity, protocol: u32, config: &RemotingConfig) -> Frame {
    let welcome = Welcome {
        protocol,
        identity: Some(wire_identity(local)),
        link_window: config.link_window as u64,
        max_payload: config.max_payload as u64,
        max_call_body: config.max_call_body as u64,
        max_pairs: u32::try_from(config.max_pairs).unwrap_or(u32::MAX),
        max_symbols: u32::try_from(config.max_symbols).unwrap_or(u32::MAX),
    };
    Frame { welcome: Some(welcome), ..Frame::default() }
}

/// Checks a dialler's first frame. The error is the reason to refuse it with.
pub(crate) fn read_hello(local: &PeerIdentity, frame: Bytes) -> Result<ReadHello, String> {
    let frame = FirstFrame::decode(frame).map_err(|err| format!("its first frame is malformed: {err}"))?;
    let hello = frame.hello.ok_or("the first frame holds no hello")?;
    let protocol = hello.protocol.min(PROTOCOL);
    if protocol < OLDEST_PROTOCOL || protocol < hello.oldest_protocol {
        return Err(format!(
            "it speaks protocol versions {} to {}, this node {OLDEST_PROTOCOL} to {PROTOCOL}",
            hello.oldest_protocol, hello.protocol
        ));
    }
    let lane = match hello.lane() {
        LaneKind::Unspecified => return Err(format!("it names an unknown lane ({})", hello.lane)),
        lane => lane,
    };
    let link = number("link", &hello.link).map_err(|err| err.to_string())?;
    let identity = read_identity(hello.identity, protocol).map_err(|err| err.to_string())?;
    if identity.system != local.system {
        return Err(format!(
            "it belongs to system {:?}, this node to {:?}",
            identity.system.as_str(),
            local.system.as_str()
        ));
    }
    Ok(ReadHello { identity, link, lane })
}

/// Checks the first frame of the dialled. The error is the reason to give up with.
pub(crate) fn read_welcome(local: &PeerIdentity, frame: Bytes) -> Result<(PeerIdentity, Grant), String> {
    let frame = FirstFrame::decode(frame).map_err(|err| format!("its first frame is malformed: {err}"))?;
    let welcome = frame.welcome.ok_or("its first frame holds no welcome")?;
    if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&welcome.protocol) {
        return Err(format!(
            "it chose protocol version {}, this node speaks {OLDEST_PROTOCOL} to {PROTOCOL}",
            welcome.protocol
        ));
    }
    let identity = read_identity(welcome.identity, welcome.protocol).map_err(|err| err.to_string())?;
    if identity.system != local.system {
        return Err(format!(
            "it belongs to system {:?}, this node to {:?}",
            identity.system.as_str(),
            local.system.as_str()
        ));
    }
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX).min(1 << 31);
    let window = size(welcome.link_window);
    let room = RemotingConfig::MESSAGE_ROOM;
    if window <= room {
        return Err(format!("it grants a window of {window} bytes, which holds no message"));
    }
    let grant = Grant {
        link_window: window,
        max_payload: size(welcome.max_payload).min(window - room),
        max_call_body: size(welcome.max_call_body),
        max_pairs: welcome.max_pairs as usize,
        max_symbols: welcome.max_symbols as usize,
    };
    Ok((identity, grant))
}

#[cfg(test)]
mod tests {
    use dc_core::DataCenter;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn local(system: &str) -> PeerIdentity {
        PeerIdentity {
            system: SystemName::new(system).unwrap(),
            dc: DataCenter::new("dc-1").build().unwrap().id().clone(),
            node: NodeId(7),
            advertised: "127.0.0.1:1".parse().unwrap(),
            store: Some(StoreId(3)),
            protocol: PROTOCOL,
        }
    }

    fn bytes(frame: Frame) -> Bytes {
        frame.encode_to_vec().into()
    }

    #[test]
    fn hello_reads_back() {
        let read = read_hello(&local("app"), bytes(hello_frame(&local("app"), 9, LaneKind::Bulk))).expect("legal");
        assert_eq!(read, ReadHello { identity: local("app"), link: 9, lane: LaneKind::Bulk });
    }

    #[test]
    fn another_system_is_refused_by_both_ends() {
        let why =
            read_hello(&local("app"), bytes(hello_frame(&local("other"), 9, LaneKind::User))).expect_err("refused");
        assert!(why.contains("other") && why.contains("app"), "{why}");
        let config =
            crate::RemotingConfig::builder(local("other").system, local("other").dc, NodeId(1)).build().unwrap();
        let why = read_welcome(&local("app"), bytes(welcome_frame(&local("other"), 1, &config))).expect_err("refused");
        assert!(why.contains("other") && why.contains("app"), "{why}");
    }

    #[test]
    fn r8_what_is_hidden_in_a_first_frame_is_not_read() {
        let mut bytes = hello_frame(&local("app"), 9, LaneKind::User).encode_to_vec();
        bytes.extend([0x2a, 0x00].repeat(1 << 20)); // empty envelopes, some 200 bytes each once they are read
        let first = FirstFrame::decode(&bytes[..]).expect("legal");
        assert_eq!(first.encoded_len(), bytes.len() - (2 << 20), "they are passed over");
        assert_eq!(read_hello(&local("app"), bytes.into()).expect("legal").link, 9);
    }

    #[test]
    fn versions_must_overlap() {
        let mut frame = hello_frame(&local("app"), 9, LaneKind::User);
        let hello = frame.hello.as_mut().unwrap();
        (hello.protocol, hello.oldest_protocol) = (9, 2);
        let why = read_hello(&local("app"), bytes(frame.clone())).expect_err("refused");
        assert!(why.contains("2 to 9"), "{why}");
        frame.hello.as_mut().unwrap().oldest_protocol = 1;
        assert_eq!(read_hello(&local("app"), bytes(frame)).expect("1 is common").identity.protocol, 1);
    }

    proptest! {
        #[test]
        fn r8_any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_hello(&local("app"), bytes.clone().into());
            let _ = read_welcome(&local("app"), bytes.into());
        }

        #[test]
        fn r8_a_damaged_hello_never_panics(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
            let mut bytes = hello_frame(&local("app"), 9, LaneKind::User).encode_to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = read_hello(&local("app"), bytes.into());
        }
    }
}

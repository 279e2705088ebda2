//! The envelope of a gossip datagram: who it is for, and, with a key, its seal.
//!
//! ```text
//! "mdcg" | wire version | sealed? | system length, system | id length (2), DC id | body
//! ```
//!
//! With a key the body is a nonce of 24 bytes followed by the XChaCha20-Poly1305
//! ciphertext, and everything before the nonce is associated data. Nonces come
//! from a generator that the operating system seeds, never from a seed that was
//! passed in, and at 192 bits may be drawn at random for ever. A replayed datagram is authentic, but stale:
//! each names an identity that is used once, and SWIM's incarnations order the rest.

use std::{fmt, str::FromStr};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use dc_core::{DataCenterId, Invalid, SystemName};
use rand::RngExt;

const MAGIC: &[u8; 4] = b"mdcg";
/// Version of everything in a gossip datagram. Others are dropped.
pub const WIRE_VERSION: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;

/// A secret of 32 bytes that all members of a datacenter share.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKey([u8; 32]);

impl GossipKey {
    /// From 32 bytes that were drawn at random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for GossipKey {
    type Err = Invalid;

    /// From 64 hexadecimal digits, as `openssl rand -hex 32` prints them.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        // The value is a secret: the error must not repeat it.
        let refuse = || Invalid::new("gossip key", "(hidden)", "must be 64 hexadecimal digits");
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipKey(hidden)")
    }
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Not ours: another protocol, or cut short.
    Garbage,
    /// Another wire version.
    Version,
    /// Another system or another datacenter.
    Stranger,
    /// Sealed with a key that we do not hold, not sealed though we hold one, or tampered with.
    Key,
    /// Ours and authentic, but its content cannot be read.
    Malformed,
    /// From yet another member, when as many as can be kept are known.
    TooMany,
}

/// Opens and closes the envelopes of one system's datacenter.
pub(crate) struct Envelope {
    /// Up to and including the DC id.
    header: Vec<u8>,
    /// The first seals; all open.
    keys: Vec<XChaCha20Poly1305>,
}

impl Envelope {
    /// With no key datagrams travel in the clear; with several, the first seals and all open.
    pub(crate) fn new(system: &SystemName, dc: &DataCenterId, keys: &[GossipKey]) -> Self {
        let (system, dc) = (system.as_str().as_bytes(), dc.as_str().as_bytes());
        let mut header = Vec::with_capacity(9 + system.len() + dc.len());
        header.extend_from_slice(MAGIC);
        header.push(WIRE_VERSION);
        header.push(u8::from(!keys.is_empty()));
        // A system name holds at most 63 bytes and a DC id at most 569: neither length is cut.
        header.push(system.len() as u8);
        header.extend_from_slice(system);
        header.extend_from_slice(&(dc.len() as u16).to_be_bytes());
        header.extend_from_slice(dc);
        let keys = keys.iter().map(|key| XChaCha20Poly1305::new(&key.0.into())).collect();
        Self { header, keys }
    }

    /// Bytes that the envelope adds to a body.
    pub(crate) fn overhead(&self) -> usize {
        self.header.len() + if self.keys.is_empty() { 0 } else { NONCE + TAG }
    }

    /// Puts `body` into an envelope.
    pub(crate) fn close(&self, body: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(self.overhead() + body.len());
        packet.extend_from_slice(&self.header);
        let Some(cipher) = self.keys.first() else {
            packet.extend_from_slice(body);
            return packet;
        };
        let mut nonce = [0; NONCE];
        rand::rng().fill(&mut nonce[..]);
        packet.extend_from_slice(&nonce);
        // Sealing fails only beyond 256 GiB; an empty body is dropped by whoever receives it.
        let sealed = cipher.encrypt(&XNonce::from(nonce), Payload { msg: body, aad: &self.header }).unwrap_or_default();
        packet.extend_from_slice(&sealed);
        packet
    }

    /// The body of `packet`.
    pub(crate) fn open(&self, packet: &[u8]) -> Result<Vec<u8>, Dropped> {
        let Some(rest) = packet.strip_prefix(MAGIC) else { return Err(Dropped::Garbage) };
        let Some((&version, rest)) = rest.split_first() else { return Err(Dropped::Garbage) };
        if version != WIRE_VERSION {
            return Err(Dropped::Version);
        }
        let addressed = addressee(rest).ok_or(Dropped::Garbage)?;
        let own = addressee(&self.header[MAGIC.len() + 1..]).ok_or(Dropped::Garbage)?;
        if addressed != own {
            return Err(Dropped::Stranger);
        }
        let Some(body) = packet.strip_prefix(self.header.as_slice()) else { return Err(Dropped::Key) };
        if self.keys.is_empty() {
            return Ok(body.to_vec());
        }
        let (nonce, sealed) = body.split_first_chunk::<NONCE>().ok_or(Dropped::Garbage)?;
        let payload = || Payload { msg: sealed, aad: &self.header };
        let nonce = XNonce::from(*nonce);
        self.keys.iter().find_map(|cipher| cipher.decrypt(&nonce, payload()).ok()).ok_or(Dropped::Key)
    }
}

/// The system and the DC id in what follows the version.
fn addressee(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_sealed, rest) = rest.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (system, rest) = rest.split_at_checked(usize::from(length))?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (dc, _) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((system, dc))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(system: &str, dc: &str, keys: &[u8]) -> Envelope {
        let keys: Vec<_> = keys.iter().map(|&byte| GossipKey::new([byte; 32])).collect();
        Envelope::new(&SystemName::new(system).unwrap(), &dc.parse().unwrap(), &keys)
    }

    #[test]
    fn a_sealed_datagram_hides_its_body_and_opens_with_either_key() {
        let (old, both, new) =
            (envelope("app", "dc", &[1]), envelope("app", "dc", &[2, 1]), envelope("app", "dc", &[2]));
        let body = b"a body that must not be seen";
        for (from, to, opens) in [(&old, &both, true), (&both, &new, true), (&both, &old, false), (&old, &new, false)] {
            let packet = from.close(body);
            assert!(!packet.windows(6).any(|part| part == &body[..6]));
            assert_eq!(packet.len(), body.len() + from.overhead());
            assert_eq!(to.open(&packet), if opens { Ok(body.to_vec()) } else { Err(Dropped::Key) });
        }
    }

    #[test]
    fn a_datagram_of_another_system_datacenter_version_or_key_is_dropped() {
        let (ours, plain) = (envelope("app", "eu/dc", &[1]), envelope("app", "eu/dc", &[]));
        for (packet, why) in [
            (envelope("other", "eu/dc", &[1]).close(b"x"), Dropped::Stranger),
            (envelope("app", "us/dc", &[1]).close(b"x"), Dropped::Stranger),
            (envelope("app", "eu/dc", &[3]).close(b"x"), Dropped::Key),
            (plain.close(b"x"), Dropped::Key),
            (b"mdcg\x02\x00".to_vec(), Dropped::Version),
            (b"GET / HTTP/1.1".to_vec(), Dropped::Garbage),
            (Vec::new(), Dropped::Garbage),
        ] {
            assert_eq!(ours.open(&packet), Err(why));
        }
        assert_eq!(plain.open(&ours.close(b"x")), Err(Dropped::Key), "sealed, but we hold no key");
    }

    #[test]
    fn any_changed_byte_breaks_the_seal() {
        let ours = envelope("app", "dc", &[1]);
        let packet = ours.close(b"body");
        for at in 0..packet.len() {
            let mut changed = packet.clone();
            changed[at] ^= 1;
            assert!(ours.open(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_same_body_never_looks_the_same() {
        let ours = envelope("app", "dc", &[1]);
        assert_ne!(ours.close(b"body"), ours.close(b"body"));
    }

    #[test]
    fn a_key_is_never_printed() {
        let key: GossipKey = "ab".repeat(32).parse().unwrap();
        assert_eq!(key, GossipKey::new([0xab; 32]));
        assert_eq!(format!("{key:?}"), "GossipKey(hidden)");
        let err = "secret".parse::<GossipKey>().unwrap_err();
        assert!(!err.to_string().contains("secret"), "{err}");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..40) {
            for ours in [envelope("app", "dc", &[1]), envelope("app", "dc", &[])] {
                let _ = ours.open(&bytes);
                let mut packet = ours.close(&bytes);
                packet.truncate(cut);
                let _ = ours.open(&packet);
            }
        }
    }
}

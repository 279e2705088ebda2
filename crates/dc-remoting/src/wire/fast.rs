//! The hot messages, read and written without going through their structs.
//!
//! What is written here is plain Protobuf as `link.proto` has it; tests compare both ways with the structs.
//! Field numbers stand in comments next to their use, nowhere else.

use bytes::{Bytes, BytesMut};

/// A frame that is not Protobuf, or not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame: {0}")]
pub(crate) struct Malformed(&'static str);

/// The value of one field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Number(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// 32 bits: no field of ours has that type.
    Other,
}

impl<'a> Value<'a> {
    fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Number(number) => Ok(number),
            _ => Err(Malformed("a number has another wire type")),
        }
    }

    fn number32(self) -> Result<u32, Malformed> {
        // As Protobuf has it: the low half counts.
        Ok(self.number()? as u32)
    }

    fn fixed64(self) -> Result<u64, Malformed> {
        match self {
            Self::Fixed64(number) => Ok(number),
            _ => Err(Malformed("a fixed64 has another wire type")),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("bytes have another wire type")),
        }
    }

    fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a string is not UTF-8"))
    }
}

/// The fields of one message, in the order in which they stand.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The next field's number and value.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        // A key has 32 bits, as Protobuf has it.
        let number = u32::try_from(key).map_err(|_| Malformed("a field number is too large"))? >> 3;
        if number == 0 {
            return Err(Malformed("field number 0"));
        }
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                let (head, rest) = self.0.split_first_chunk::<8>().ok_or(Malformed("cut off"))?;
                self.0 = rest;
                Value::Fixed64(u64::from_le_bytes(*head))
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed("a length is too large"))?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Value::Other
            }
            _ => return Err(Malformed("unknown wire type")),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed("cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        if let Some((&byte, rest)) = self.0.split_first()
            && byte < 0x80
        {
            self.0 = rest;
            return Ok(byte.into());
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (n, &byte) in self.0.iter().enumerate().take(10) {
            if n == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte < 0x80 {
                self.0 = &self.0[n + 1..];
                return Ok(value);
            }
        }
        Err(Malformed("a number does not end"))
    }
}

/// An `Envelope`, read in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EnvelopeRef<'a> {
    pub(crate) correlation: u64,
    pub(crate) pair: u32,
    pub(crate) to: u64,
    pub(crate) kind: u32,
    pub(crate) message: u32,
    pub(crate) epoch: u64,
    pub(crate) key: &'a [u8],
    pub(crate) from: &'a [u8],
    pub(crate) left_us: u64,
    pub(crate) payload: &'a [u8],
    pub(crate) total: u64,
    pub(crate) transfer: u32,
    pub(crate) kind_text: &'a str,
    pub(crate) message_text: &'a str,
}

impl<'a> EnvelopeRef<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => read.correlation = value.fixed64()?,
                2 => read.pair = value.number32()?,
                3 => read.to = value.number()?,
                4 => read.kind = value.number32()?,
                5 => read.message = value.number32()?,
                6 => read.epoch = value.number()?,
                7 => read.key = value.bytes()?,
                8 => read.from = value.bytes()?,
                9 => read.left_us = value.number()?,
                10 => read.payload = value.bytes()?,
                11 => read.total = value.number()?,
                12 => read.transfer = value.number32()?,
                13 => read.kind_text = value.text()?,
                14 => read.message_text = value.text()?,
                _ => {}
            }
        }
        Ok(read)
    }

    /// Writes the envelope as an entry of a frame. With `payload_len`, the payload's bytes are left to the
    /// caller: they must follow at once.
    pub(crate) fn write(&self, out: &mut BytesMut, payload_len: Option<usize>) {
        let mut numbers = Small::new();
        numbers.fixed64(1, self.correlation);
        numbers.number(2, self.pair.into());
        numbers.number(3, self.to);
        numbers.number(4, self.kind.into());
        numbers.number(5, self.message.into());
        numbers.number(6, self.epoch);
        numbers.number(9, self.left_us);
        numbers.number(11, self.total);
        numbers.number(12, self.transfer.into());
        let payload = payload_len.unwrap_or(self.payload.len());
        let texts = bytes_len(self.kind_text.len()) + bytes_len(self.message_text.len());
        let len = numbers.len() + bytes_len(self.key.len()) + bytes_len(self.from.len()) + texts + bytes_len(payload);
        let mut head = Small::new();
        head.header(5, len); // Frame.envelopes
        out.reserve(head.len() + len);
        out.extend_from_slice(head.bytes());
        out.extend_from_slice(numbers.bytes());
        put_bytes(out, 7, self.key);
        put_bytes(out, 8, self.from);
        put_bytes(out, 13, self.kind_text.as_bytes());
        put_bytes(out, 14, self.message_text.as_bytes());
        match payload_len {
            None => put_bytes(out, 10, self.payload),
            Some(len) => put_header(out, 10, len),
        }
    }
}

/// A `Reply`, read in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplyRef<'a> {
    pub(crate) correlation: u64,
    pub(crate) outcome: i32,
    pub(crate) status: u32,
    pub(crate) body: &'a [u8],
    pub(crate) total: u64,
    pub(crate) transfer: u32,
}

impl<'a> ReplyRef<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => read.correlation = value.fixed64()?,
                // An enum travels as its two's complement.
                2 => read.outcome = value.number()? as i32,
                3 => read.status = value.number32()?,
                4 => read.body = value.bytes()?,
                5 => read.total = value.number()?,
                6 => read.transfer = value.number32()?,
                _ => {}
            }
        }
        Ok(read)
    }

    /// As [`EnvelopeRef::write`], for the body.
    pub(crate) fn write(&self, out: &mut BytesMut, body_len: Option<usize>) {
        let mut numbers = Small::new();
        numbers.fixed64(1, self.correlation);
        numbers.number(2, i64::from(self.outcome) as u64);
        numbers.number(3, self.status.into());
        numbers.number(5, self.total);
        numbers.number(6, self.transfer.into());
        let len = numbers.len() + bytes_len(body_len.unwrap_or(self.body.len()));
        let mut head = Small::new();
        head.header(7, len); // Frame.replies
        out.reserve(head.len() + len);
        out.extend_from_slice(head.bytes());
        out.extend_from_slice(numbers.bytes());
        match body_len {
            None => put_bytes(out, 4, self.body),
            Some(len) => put_header(out, 4, len),
        }
    }
}

/// A `Chunk`, read in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChunkRef<'a> {
    pub(crate) transfer: u32,
    pub(crate) data: &'a [u8],
}

impl<'a> ChunkRef<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => read.transfer = value.number32()?,
                2 => read.data = value.bytes()?,
                _ => {}
            }
        }
        Ok(read)
    }

    /// Writes all but the data, whose bytes must follow at once.
    pub(crate) fn write_head(transfer: u32, data_len: usize, out: &mut BytesMut) {
        let mut numbers = Small::new();
        numbers.number(1, transfer.into());
        let mut head = Small::new();
        head.header(4, numbers.len() + bytes_len(data_len)); // Frame.chunks
        out.extend_from_slice(head.bytes());
        out.extend_from_slice(numbers.bytes());
        put_header(out, 2, data_len);
    }
}

/// A `Credit`, read in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CreditRef {
    pub(crate) pair: u32,
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

impl CreditRef {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => read.pair = value.number32()?,
                2 => read.messages = value.number32()?,
                3 => read.bytes = value.number()?,
                _ => {}
            }
        }
        Ok(read)
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        let mut numbers = Small::new();
        numbers.number(1, self.pair.into());
        numbers.number(2, self.messages.into());
        numbers.number(3, self.bytes);
        let mut head = Small::new();
        head.header(8, numbers.len()); // Frame.credits
        out.extend_from_slice(head.bytes());
        out.extend_from_slice(numbers.bytes());
    }
}

/// `part` of `frame` as bytes of its own. Small parts are copied, so that a message that is kept does not
/// keep its whole frame in memory, and its neighbours do not share a reference count. So are small parts of a large
/// frame: what is kept is never more than four times what it counts for (R5), whatever else a peer puts into its frames.
pub(crate) fn owned(frame: &Bytes, part: &[u8]) -> Bytes {
    match part.len() {
        0 => Bytes::new(),
        len if len <= 1024 || frame.len() / 4 > len => Bytes::copy_from_slice(part),
        _ => frame.slice_ref(part),
    }
}

/// The numbers of one message, put together on the stack: nine of at most 11 bytes.
struct Small {
    bytes: [u8; 104],
    len: usize,
}

impl Small {
    fn new() -> Self {
        Self { bytes: [0; 104], len: 0 }
    }

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    /// Field numbers here are below 16: one byte.
    fn number(&mut self, field: u8, value: u64) {
        if value != 0 {
            self.push(field << 3);
            self.varint(value);
        }
    }

    fn fixed64(&mut self, field: u8, value: u64) {
        if value != 0 {
            self.push(field << 3 | 1);
            self.bytes[self.len..self.len + 8].copy_from_slice(&value.to_le_bytes());
            self.len += 8;
        }
    }

    fn header(&mut self, field: u8, len: usize) {
        self.push(field << 3 | 2);
        self.varint(len as u64);
    }
}

/// What a field of `len` bytes takes; nothing where it is empty.
fn bytes_len(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_len(len as u64) + len }
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_header(out: &mut BytesMut, field: u8, len: usize) {
    if len > 0 {
        let mut head = Small::new();
        head.header(field, len);
        out.extend_from_slice(head.bytes());
    }
}

fn put_bytes(out: &mut BytesMut, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_header(out, field, bytes.len());
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::{Chunk, Credit, Envelope, Frame, Reply};

    #[test]
    fn r5_what_is_kept_of_a_frame_keeps_at_most_four_times_its_size() {
        for (frame, part, shared) in
            [(100, 50, false), (8_000, 2_000, true), (8_004, 2_000, false), (4 << 20, 64 << 10, false)]
        {
            let frame = Bytes::from(vec![7; frame]);
            let kept = owned(&frame, &frame[..part]);
            assert_eq!(kept, frame[..part]);
            assert_eq!(kept.as_ptr() == frame.as_ptr(), shared, "{part} of {}", frame.len());
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0u64), 1u64..200, any::<u64>()]
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
    }

    prop_compose! {
        fn envelope()(
            (correlation, to, epoch, left_us, total) in (number(), number(), number(), number(), number()),
            (pair, kind, message, transfer) in (any::<u32>(), 0u32..300, any::<u32>(), any::<u32>()),
            (key, from, payload) in (bytes(), bytes(), bytes()),
            (kind_text, message_text) in (".{0,20}", ".{0,20}"),
        ) -> Envelope {
            Envelope {
                correlation, pair, to, kind, message, epoch, key, from, left_us, payload, total, transfer,
                kind_text, message_text,
            }
        }
    }

    fn as_ref(e: &Envelope) -> EnvelopeRef<'_> {
        EnvelopeRef {
            correlation: e.correlation,
            pair: e.pair,
            to: e.to,
            kind: e.kind,
            message: e.message,
            epoch: e.epoch,
            key: &e.key,
            from: &e.from,
            left_us: e.left_us,
            payload: &e.payload,
            total: e.total,
            transfer: e.transfer,
            kind_text: &e.kind_text,
            message_text: &e.message_text,
        }
    }

    proptest! {
        #[test]
        fn envelopes_are_written_and_read_as_protobuf_has_it(envelope in envelope()) {
            for apart in [false, true] {
                let mut out = BytesMut::new();
                as_ref(&envelope).write(&mut out, apart.then_some(envelope.payload.len()));
                if apart {
                    out.extend_from_slice(&envelope.payload);
                }
                let frame = Frame::decode(&out[..]).unwrap();
                prop_assert_eq!(&frame.envelopes[..], std::slice::from_ref(&envelope));
            }
            let bytes = envelope.encode_to_vec();
            prop_assert_eq!(EnvelopeRef::read(&bytes).unwrap(), as_ref(&envelope));
        }

        #[test]
        fn replies_chunks_and_credits_are_written_and_read_as_protobuf_has_it(
            (correlation, total) in (number(), number()),
            (outcome, status, transfer) in (any::<i32>(), any::<u32>(), any::<u32>()),
            body in bytes(),
        ) {
            let reply = Reply { correlation, outcome, status, body: body.clone(), total, transfer };
            let read = ReplyRef { correlation, outcome, status, body: &body, total, transfer };
            for apart in [false, true] {
                let mut out = BytesMut::new();
                read.write(&mut out, apart.then_some(body.len()));
                if apart {
                    out.extend_from_slice(&body);
                }
                prop_assert_eq!(&Frame::decode(&out[..]).unwrap().replies[..], std::slice::from_ref(&reply));
            }
            let bytes = reply.encode_to_vec();
            prop_assert_eq!(ReplyRef::read(&bytes).unwrap(), read);

            let chunk = Chunk { transfer, data: body.clone() };
            let mut out = BytesMut::new();
            ChunkRef::write_head(transfer, body.len(), &mut out);
            out.extend_from_slice(&body);
            prop_assert_eq!(&Frame::decode(&out[..]).unwrap().chunks[..], std::slice::from_ref(&chunk));
            let bytes = chunk.encode_to_vec();
            prop_assert_eq!(ChunkRef::read(&bytes).unwrap(), ChunkRef { transfer, data: &body });

            let credit = Credit { pair: transfer, messages: status, bytes: total };
            let read = CreditRef { pair: transfer, messages: status, bytes: total };
            let mut out = BytesMut::new();
            read.write(&mut out);
            prop_assert_eq!(&Frame::decode(&out[..]).unwrap().credits[..], std::slice::from_ref(&credit));
            prop_assert_eq!(CreditRef::read(&credit.encode_to_vec()).unwrap(), read);
        }

        #[test]
        fn r8_a_damaged_envelope_is_refused_or_read_as_protobuf_would(
            envelope in envelope(), at in any::<u16>(), byte in any::<u8>(), cut in any::<u16>(),
        ) {
            let mut bytes = envelope.encode_to_vec();
            if !bytes.is_empty() {
                let len = bytes.len();
                bytes[usize::from(at) % len] = byte;
                bytes.truncate(len - usize::from(cut) % len);
            }
            // What we read, Protobuf reads alike. (It also takes some things that we refuse: groups.)
            if let Ok(read) = EnvelopeRef::read(&bytes) {
                let theirs = Envelope::decode(&bytes[..]).unwrap();
                prop_assert_eq!(read, as_ref(&theirs));
            }
        }

        #[test]
        fn r8_any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = EnvelopeRef::read(&bytes);
            let _ = ReplyRef::read(&bytes);
            let _ = ChunkRef::read(&bytes);
            let _ = CreditRef::read(&bytes);
        }
    }
}

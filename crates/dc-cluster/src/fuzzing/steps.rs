//! A script of steps, read from any bytes.

/// What is left of a script: steps of a kind (one byte), an argument (one byte), a length (two, little endian), bytes.
pub(super) struct Steps<'a> {
    rest: &'a [u8],
    left: usize,
}

/// One step.
pub(super) struct Step<'a> {
    pub(super) kind: u8,
    pub(super) argument: u8,
    pub(super) bytes: &'a [u8],
}

/// Steps of one script, at most: bounds the time of one run.
const MAX_STEPS: usize = 64;

impl<'a> Steps<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, left: MAX_STEPS }
    }

    /// Writes one step.
    pub(super) fn write(out: &mut Vec<u8>, kind: u8, argument: u8, bytes: &[u8]) {
        // Datagrams and questions of seeds are far shorter; a longer one is cut as the reader would cut it.
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&[kind, argument]);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&bytes[..usize::from(len)]);
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let [kind, argument, low, high, tail @ ..] = self.rest else { return None };
        self.left = self.left.checked_sub(1)?;
        let (bytes, rest) = tail.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(tail.len()));
        self.rest = rest;
        Some(Step { kind: *kind, argument: *argument, bytes })
    }
}

//! What senders and targets write down: one entry a message, in files that outlive a killed process.
//!
//! An entry is written with one system call before the handler returns, or before the sender goes on: what a process
//! acknowledged is in its file, whatever happens to it next. Files are cut into segments, which the reader removes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// Bytes of an entry.
pub const ENTRY: usize = 48;

/// Bytes after which the next segment begins.
const SEGMENT: u64 = 8 << 20;

/// What a message was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// One actor, by reference.
    Actor,
    /// A grain of which each datacenter has its own.
    Cart,
    /// A grain with one home across datacenters.
    Ledger,
    /// The start of an actor: its arguments are the message.
    Spawn,
    /// A global grain: one in the world.
    Vault,
    /// An actor of a global name: one in the world.
    Deed,
}

impl Class {
    /// All of them, at the position of their number.
    pub const ALL: [Self; 6] = [Self::Actor, Self::Cart, Self::Ledger, Self::Spawn, Self::Vault, Self::Deed];

    /// Whether it has one owner in the world, proved by a lease: never two at once (G2), whatever is done to the system.
    pub fn is_global(self) -> bool {
        matches!(self, Self::Vault | Self::Deed)
    }

    /// Whether its number names one of a kind, which becomes active again elsewhere.
    pub fn moves(self) -> bool {
        matches!(self, Self::Cart | Self::Ledger) || self.is_global()
    }

    /// How it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Actor => "actor",
            Self::Cart => "grain per DC",
            Self::Ledger => "grain with one home",
            Self::Spawn => "spawn",
            Self::Vault => "global grain",
            Self::Deed => "global name",
        }
    }
}

/// What its sender was told of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The ask was answered.
    Acknowledged,
    /// The tell was accepted for delivery.
    Accepted,
    /// It certainly did not run.
    NotRun,
    /// It may have run.
    Unknown,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Acknowledged, Self::Accepted, Self::NotRun, Self::Unknown];
}

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened.
    pub what: What,
    /// What the message was for.
    pub class: Class,
    /// The sender's number of its stream: its process's run above, a count below.
    pub stream: u64,
    /// The message's number in the stream, from 1.
    pub seq: u32,
    /// Who handled it: the process's run above, a count below; 0 where that is not known.
    pub activation: u64,
    /// When it was sent, by [`super::clock`].
    pub sent_us: u64,
    /// When this happened.
    pub at_us: u64,
    /// Which grain, or 0.
    pub grain: u32,
}

/// The two sides of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A target began to handle it.
    Handled,
    /// Its sender was told this; of a failure, with the number of the error's name.
    Told(Outcome, u8),
}

/// The process's run that a stream or an activation belongs to.
pub fn run_of(number: u64) -> u32 {
    (number >> 32) as u32
}

impl Entry {
    /// As written.
    pub fn to_bytes(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let (tag, error) = match self.what {
            What::Handled => (0, 0),
            What::Told(outcome, error) => (1 + outcome as u8, error),
        };
        bytes[..4].copy_from_slice(&[tag, error, self.class as u8, 0]);
        bytes[4..8].copy_from_slice(&self.seq.to_le_bytes());
        for (at, value) in [(8, self.stream), (16, self.activation), (24, self.sent_us), (32, self.at_us)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.grain.to_le_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8; ENTRY]) -> Option<Self> {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let what = match bytes[0] {
            0 => What::Handled,
            tag => What::Told(*Outcome::ALL.get(usize::from(tag) - 1)?, bytes[1]),
        };
        let class = *Class::ALL.get(usize::from(bytes[2]))?;
        let (stream, activation, sent_us, at_us) = (long(8), long(16), long(24), long(32));
        Some(Self { what, class, stream, seq: short(4), activation, sent_us, at_us, grain: short(40) })
    }
}

fn segment(dir: &Path, run: u32, number: u32) -> PathBuf {
    dir.join(format!("{run}-{number}.log"))
}

/// Where a process writes.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    run: u32,
    open: Mutex<(File, u32, u64)>,
}

impl LogWriter {
    /// Begins the log of this run in `dir`.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub fn create(dir: &Path, run: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(segment(dir, run, 0))?;
        Ok(Self { dir: dir.to_owned(), run, open: Mutex::new((file, 0, 0)) })
    }

    /// Writes one entry; it is in the file when this returns.
    ///
    /// # Errors
    ///
    /// The operating system refused. A process that cannot write its log must end: nothing it says counts.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let mut open = self.open.lock();
        if open.2 >= SEGMENT {
            let number = open.1 + 1;
            let file = OpenOptions::new().create(true).append(true).open(segment(&self.dir, self.run, number))?;
            *open = (file, number, 0);
        }
        open.2 += ENTRY as u64;
        open.0.write_all(&entry.to_bytes())
    }
}

/// Reads what one process writes, while it writes.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    run: u32,
    number: u32,
    file: Option<File>,
    rest: Vec<u8>,
}

impl LogReader {
    /// Follows the log of this run in `dir`.
    pub fn follow(dir: &Path, run: u32) -> Self {
        Self { dir: dir.to_owned(), run, number: 0, file: None, rest: Vec::new() }
    }

    /// Whose log it is.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Gives all that was written since the last call to `take`; returns how many entries that were.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or holds something else than entries.
    pub fn read(&mut self, mut take: impl FnMut(Entry)) -> io::Result<usize> {
        let mut count = 0;
        loop {
            let path = segment(&self.dir, self.run, self.number);
            if self.file.is_none() {
                match File::open(&path) {
                    Ok(file) => self.file = Some(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(count),
                    Err(error) => return Err(error),
                }
            }
            // Asked before reading: once the next one exists, nothing is added to this one.
            let ended = segment(&self.dir, self.run, self.number + 1).exists();
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut self.rest)?;
            }
            let whole = self.rest.len() / ENTRY * ENTRY;
            for bytes in self.rest[..whole].chunks_exact(ENTRY) {
                // The chunks are exactly that long.
                let bytes = bytes.try_into().expect("a chunk of an entry's size");
                take(Entry::from_bytes(bytes).ok_or_else(|| io::Error::other("no entry"))?);
                count += 1;
            }
            self.rest.drain(..whole);
            if !ended {
                return Ok(count);
            }
            std::fs::remove_file(&path)?;
            (self.file, self.number) = (None, self.number + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u32) -> Entry {
        let what = What::Told(Outcome::NotRun, 7);
        Entry { what, class: Class::Ledger, stream: 1 << 32 | 5, seq, activation: 9, sent_us: 3, at_us: 4, grain: 11 }
    }

    #[test]
    fn entries_read_back_as_written() {
        for what in [What::Handled, What::Told(Outcome::Acknowledged, 0), What::Told(Outcome::Unknown, 200)] {
            for class in Class::ALL {
                let entry = Entry { what, class, ..entry(77) };
                assert_eq!(Entry::from_bytes(&entry.to_bytes()), Some(entry));
            }
        }
        assert_eq!(Entry::from_bytes(&[255; ENTRY]), None);
    }

    #[test]
    fn a_log_is_followed_across_segments_which_are_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let writer = LogWriter::create(dir.path(), 3).expect("created");
        let mut reader = LogReader::follow(dir.path(), 3);
        let total = (SEGMENT as usize / ENTRY) as u32 * 2 + 10;
        let mut read = Vec::new();
        for seq in 0..total {
            writer.write(&entry(seq)).expect("written");
            if seq % 50_000 == 0 {
                reader.read(|entry| read.push(entry.seq)).expect("read");
            }
        }
        reader.read(|entry| read.push(entry.seq)).expect("read");
        assert!(read.iter().copied().eq(0..total), "all, once, in order");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "read segments are removed");
    }
}

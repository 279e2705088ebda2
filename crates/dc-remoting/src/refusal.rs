//! Why a link over TLS did not come about, in terms that both ends share.

use std::{sync::Arc, time::Duration};

use dc_core::{DataCenterId, Endpoint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What an HTTP/2 dialler without TLS is told by an end that takes nothing else, as the debug data of a GOAWAY.
pub(crate) const TLS_ONLY: &str = "multidc: TLS only";

/// What a dialler is told where there is no place for its connection, in the same way.
pub(crate) const TOO_MANY: &str = "multidc: too many connections";

/// What a dialler is told, as a status, whose node has as many links as it may have.
pub(crate) const TOO_MANY_LINKS: &str = "this node takes no more links of that one";

/// What a dialler is told whose earlier links left too much behind that is still held here.
pub(crate) const TOO_MUCH_HELD: &str = "this node still holds too much of what came over earlier links of that one";

/// HTTP/2 error codes.
#[cfg(feature = "tls")]
pub(crate) const INADEQUATE_SECURITY: u8 = 0xc;
pub(crate) const ENHANCE_YOUR_CALM: u8 = 0xb;

/// How long, and how much, a dialler may go on talking after it was told why it is refused.
const LAST_WORDS: (Duration, u64) = (Duration::from_secs(1), 64 << 10);

/// Tells an HTTP/2 dialler in its own words why it is refused, and hears it out, so that it can read that.
pub(crate) async fn say_goaway(mut io: impl AsyncRead + AsyncWrite + Unpin, code: u8, why: &'static str) {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = 8 + why.len() as u8;
    let mut said = SETTINGS.to_vec();
    // GOAWAY, on stream 0, last stream 0.
    said.extend([0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code]);
    said.extend(why.as_bytes());
    let talk = async {
        io.write_all(&said).await?;
        io.shutdown().await?;
        let mut rest = io.take(LAST_WORDS.1);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // It was only courtesy.
    let _ = tokio::time::timeout(LAST_WORDS.0, talk).await;
}

/// Which end of a connection refused the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedBy {
    /// This node refused the peer, or could not make out what it says.
    ThisNode,
    /// The peer refused this node.
    Peer,
}

/// What was wrong with the refused end (R9). "The certificate" is that of the refused end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsRefusal {
    /// Its certificate is no longer valid.
    #[error("the certificate has expired{}", dated(" on ", *.not_after))]
    Expired {
        /// The end of its time, in seconds since 1970, where this end knows it.
        not_after: Option<u64>,
    },
    /// Its certificate is not valid yet: it is new, or a clock is wrong.
    #[error("the certificate is not valid yet{}", dated(", only from ", *.not_before))]
    NotYetValid {
        /// The beginning of its time, in seconds since 1970, where this end knows it.
        not_before: Option<u64>,
    },
    /// No CA of the bundle has signed it.
    #[error("the certificate is signed by no CA of the bundle")]
    UnknownCa,
    /// Its certificate is not made for both ends of a connection.
    #[error("the certificate's extended key usage must hold both serverAuth and clientAuth, or be left out")]
    WrongPurpose,
    /// It showed no certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// Its certificate names no node of a system: it has no (legal) URI `multidc://<system>/<dc>`.
    #[error("the certificate does not say who it is for: {why}")]
    NoName {
        /// What is wrong with its names.
        why: Arc<str>,
    },
    /// Its certificate is for another system.
    #[error("the certificate is for system {found:?}, not {wanted:?}")]
    WrongSystem {
        /// What the certificate names.
        found: Arc<str>,
        /// This node's system.
        wanted: Arc<str>,
    },
    /// It says that it belongs to another datacenter than its certificate does.
    #[error("the certificate is for {certified}, not for {claimed}")]
    WrongDataCenter {
        /// What the certificate names.
        certified: DataCenterId,
        /// What the handshake says.
        claimed: DataCenterId,
    },
    /// Its certificate names another node.
    #[error("the certificate is for the node at {certified}, not for the one at {claimed}")]
    WrongNode {
        /// Where the node that the certificate names takes links.
        certified: Endpoint,
        /// What the handshake says.
        claimed: Endpoint,
    },
    /// The peer looked at the certificate and takes none with that name: another system's, or none at all.
    #[error("the certificate is not for this system, or names nobody")]
    Identity,
    /// It does not speak TLS: probably TLS is not set there.
    #[error("it speaks plain text, not TLS: is TLS set at both ends?")]
    PlainText,
    /// It speaks nothing but TLS, which is not set here.
    #[error("it takes TLS only, and TLS is not set at this end")]
    TlsOnly,
    /// Anything else: no common version, a broken handshake, ..
    #[error("{why}")]
    Failed {
        /// What the TLS library said.
        why: Arc<str>,
    },
}

impl TlsRefusal {
    /// A name for metrics, the same for all refusals of one kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::UnknownCa => "unknown_ca",
            Self::WrongPurpose => "wrong_purpose",
            Self::NoCertificate => "no_certificate",
            Self::NoName { .. } => "no_name",
            Self::WrongSystem { .. } => "wrong_system",
            Self::WrongDataCenter { .. } => "wrong_data_center",
            Self::WrongNode { .. } => "wrong_node",
            Self::Identity => "identity",
            Self::PlainText => "plain_text",
            Self::TlsOnly => "tls_only",
            Self::Failed { .. } => "failed",
        }
    }
}

impl std::fmt::Display for RefusedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ThisNode => "this node refuses the peer",
            Self::Peer => "the peer refuses this node",
        })
    }
}

fn dated(before: &str, seconds: Option<u64>) -> String {
    seconds.map(|seconds| format!("{before}{}", utc(seconds))).unwrap_or_default()
}

/// Seconds since 1970 as a date for people.
pub(crate) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, counted from 1 March of year 0, so that the leap day ends a year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC", era * 400 + year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_164_800, "2024-02-29 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}

//! What is read from a certificate that the TLS library has verified: whom it is for, and how long it is valid.

use rustls::pki_types::{CertificateDer, UnixTime};

use super::CertificateName;
use crate::TlsRefusal;

/// The time in which a certificate is valid, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Validity {
    pub(crate) fn check(self, now: u64) -> Result<(), TlsRefusal> {
        if now < self.not_before {
            return Err(TlsRefusal::NotYetValid { not_before: Some(self.not_before) });
        }
        if now > self.not_after {
            return Err(TlsRefusal::Expired { not_after: Some(self.not_after) });
        }
        Ok(())
    }
}

/// What one certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) name: CertificateName,
    pub(crate) validity: Validity,
}

/// The wall clock, in seconds since 1970. Certificates are dated by it: there is no other clock to hold them against.
pub(crate) fn now() -> u64 {
    UnixTime::now().as_secs()
}

impl Certificate {
    /// Reads the first certificate of a chain.
    pub(crate) fn read(chain: &[CertificateDer<'_>]) -> Result<Self, TlsRefusal> {
        let leaf = chain.first().ok_or(TlsRefusal::NoCertificate)?;
        let name = name(leaf)?;
        let validity = validity(leaf)
            .ok_or_else(|| TlsRefusal::Failed { why: "the certificate's validity cannot be read".into() })?;
        Ok(Self { name, validity })
    }
}

/// Whom a certificate is for: exactly one of its names may claim to say so.
pub(crate) fn name(leaf: &CertificateDer<'_>) -> Result<CertificateName, TlsRefusal> {
    let refuse = |why: String| TlsRefusal::NoName { why: why.into() };
    let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|err| refuse(err.to_string()))?;
    let mut claims = parsed.valid_uri_names().filter(|uri| CertificateName::claims(uri));
    let first = claims.next().ok_or_else(|| {
        refuse("none of its subject alternative names is a URI multidc://<system>/<datacenter id>".to_owned())
    })?;
    if let Some(second) = claims.next() {
        return Err(refuse(format!("it has two names, {first} and {second}")));
    }
    first.parse().map_err(|invalid: dc_core::Invalid| refuse(invalid.to_string()))
}

/// One DER element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(count)?;
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|found| found.0 == tag).map(|(_, content, rest)| (content, rest))
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The validity of an X.509 certificate (RFC 5280, 4.1): the fifth field, or the fourth where the version is left out.
fn validity(certificate: &[u8]) -> Option<Validity> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut fields, _) = expect(SEQUENCE, certificate)?;
    if let Some((_, rest)) = expect(VERSION, fields) {
        fields = rest;
    }
    let (_serial, fields) = expect(INTEGER, fields)?;
    let (_signature, fields) = expect(SEQUENCE, fields)?;
    let (_issuer, fields) = expect(SEQUENCE, fields)?;
    let (validity, _) = expect(SEQUENCE, fields)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some(Validity { not_before, not_after })
}

/// `YYMMDDhhmmssZ` with years 1950 to 2049, or `YYYYMMDDhhmmssZ`. Before 1970 is 1970.
fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let (tag, text, rest) = element(der)?;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let (year, digits) = match (tag, digits.len()) {
        (UTC_TIME, 12) => match number(&digits[..2]) {
            year @ 0..50 => (2000 + year, &digits[2..]),
            year => (1900 + year, &digits[2..]),
        },
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| number(&digits[at..at + 2]);
    let (month, day) = (part(0), part(2));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = part(4) * 3_600 + part(6) * 60 + part(8);
    // Days from civil: years begin in March, so that the leap day ends one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days.saturating_sub(719_468) * 86_400 + seconds, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::refusal::utc;

    fn made(params: CertificateParams) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    fn with_uris(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().expect("ascii"))).collect();
        made(params)
    }

    #[test]
    fn validity_is_what_the_certificate_was_made_with() {
        for (from, to) in
            [((1999, 12, 31), (2049, 12, 31)), ((2024, 2, 29), (2050, 1, 1)), ((2100, 3, 1), (4096, 1, 1))]
        {
            let mut params = CertificateParams::default();
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(to.0, to.1, to.2);
            let read = validity(&made(params)).expect("legal");
            let date = |(year, month, day): (i32, u8, u8)| format!("{year:04}-{month:02}-{day:02} 00:00:00 UTC");
            assert_eq!((utc(read.not_before), utc(read.not_after)), (date(from), date(to)));
        }
    }

    #[test]
    fn r9_exactly_one_name_says_whom_a_certificate_is_for() {
        let read = name(&with_uris(&["spiffe://other/x", "multidc://app/eu/dc-1"])).expect("one of ours");
        assert_eq!(read.to_string(), "multidc://app/eu/dc-1");
        for (uris, why) in [
            (&[][..], "none of its"),
            (&["spiffe://app/dc-1"], "none of its"),
            (&["multidc://app/dc-1", "multidc://app/dc-2"], "two names"),
            (&["multidc://app"], "must be multidc://"),
            (&["MULTIDC://app/dc-1"], "must be multidc://"),
        ] {
            let refused = name(&with_uris(uris)).expect_err("refused").to_string();
            assert!(refused.contains(why), "{uris:?}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn r8_a_damaged_certificate_never_panics(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut der = with_uris(&["multidc://app/dc-1"]).to_vec();
            let at = at % der.len();
            der[at] = byte;
            der.truncate(der.len() - cut % der.len());
            let _ = validity(&der);
            let _ = name(&CertificateDer::from(der));
        }
    }
}

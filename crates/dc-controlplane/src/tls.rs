//! What a failed TLS handshake with a store says, in words for people.
//!
//! Backends bring TLS libraries of their own, or hide them: what is known is the
//! text of rustls, which all of them use. Tests against real servers hold it.

use std::error::Error as StdError;

/// Why one side refused the other's certificate, or the handshake; `None` where `err` and its causes tell of no such
/// thing. No waiting mends it: someone has to change a file or a setting.
///
/// ```
/// let err = std::io::Error::other("invalid peer certificate: UnknownIssuer");
/// let why = dc_controlplane::tls::refusal(&err).unwrap();
/// assert!(why.contains("no CA that we trust"));
/// ```
pub fn refusal(err: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(err);
    while let Some(err) = next {
        if let Some(why) = explain(&err.to_string()) {
            return Some(why);
        }
        next = err.source();
    }
    None
}

fn explain(text: &str) -> Option<String> {
    if let Some((_, why)) = text.split_once("invalid peer certificate: ") {
        let meaning = match why {
            why if why.starts_with("UnknownIssuer") => "no CA that we trust has signed it; see `tls ca`",
            why if why.starts_with("certificate expired") || why == "Expired" => "it has expired",
            why if why.starts_with("certificate not valid yet") || why == "NotValidYet" => "it is not valid yet",
            why if why.starts_with("certificate not valid for name") || why == "NotValidForName" => {
                "it is for another host"
            }
            why if why.contains("CaUsedAsEndEntity") => "it is a CA's own",
            _ => "it cannot be verified",
        };
        return Some(format!("the server's certificate is refused: {meaning} ({why})"));
    }
    if let Some((_, alert)) = text.split_once("received fatal alert: ") {
        return explain_alert(alert);
    }
    let plain = text.contains("received corrupt message of type InvalidContentType");
    plain.then(|| "the server does not speak TLS at this address".to_owned())
}

/// What the server told before it hung up.
fn explain_alert(alert: &str) -> Option<String> {
    let alert = alert.trim();
    let why = match alert {
        "CertificateRequired" | "NoCertificate" => {
            "the server asks for a client certificate, and was given none; see `tls certificate` and `tls key`"
        }
        "UnknownCA" => "the server refuses our client certificate: no CA that it trusts has signed it",
        // One alert for both (Go's servers: NATS, etcd).
        "CertificateExpired" => "the server refuses our client certificate: it has expired, or is not valid yet",
        "CertificateRevoked" => "the server refuses our client certificate: it was revoked",
        "BadCertificate" | "UnsupportedCertificate" | "CertificateUnknown" | "AccessDenied" | "DecryptError" => {
            "the server refuses our client certificate, or wants one"
        }
        "HandshakeFailure" | "ProtocolVersion" | "InsufficientSecurity" | "UnrecognisedName" => {
            "the server refuses the handshake: versions, ciphers or its name do not agree, or it wants a client certificate"
        }
        _ => return None,
    };
    Some(format!("{why} (alert {alert})"))
}

#[cfg(test)]
mod tests {
    use std::{fmt, io};

    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("transport error")
        }
    }

    impl StdError for Outer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn each_refusal_is_told_in_words_wherever_it_stands_in_the_chain() {
        for (text, word) in [
            ("invalid peer certificate: UnknownIssuer", "no CA that we trust"),
            ("invalid peer certificate: certificate expired: verification time 2 (UNIX), but ..", "has expired"),
            ("invalid peer certificate: certificate not valid yet: ..", "not valid yet"),
            ("invalid peer certificate: certificate not valid for name \"a\"; ..", "another host"),
            ("invalid peer certificate: BadSignature", "cannot be verified"),
            ("received fatal alert: CertificateRequired", "asks for a client certificate"),
            ("received fatal alert: UnknownCA", "refuses our client certificate"),
            ("received fatal alert: CertificateExpired", "it has expired"),
            ("received fatal alert: BadCertificate", "refuses our client certificate"),
            ("received fatal alert: ProtocolVersion", "refuses the handshake"),
            ("received corrupt message of type InvalidContentType", "does not speak TLS"),
        ] {
            let why = refusal(&Outer(io::Error::other(text))).expect(text);
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn what_waiting_may_mend_is_no_refusal() {
        for text in ["connection refused", "received fatal alert: InternalError", "tls handshake eof", ""] {
            assert_eq!(refusal(&Outer(io::Error::other(text))), None, "{text}");
        }
    }
}

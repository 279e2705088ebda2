//! Whoever listens beyond the loopback without TLS is told so, once.

use std::sync::Arc;

use dc_core::SystemClock;
use dc_remoting::{Remoting, Services};
use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::*;

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The warnings that a start on this address logs.
async fn warnings(config: dc_remoting::RemotingConfigBuilder) -> Vec<String> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let config = config.build().expect("legal");
    let started = Remoting::start(config, Arc::new(SystemClock), Services::new()).await.expect("starts");
    drop(guard);
    drop(started);
    let text = String::from_utf8(log.0.lock().clone()).expect("text");
    text.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
}

#[tokio::test]
async fn r9_listening_beyond_the_loopback_without_tls_is_warned_of_once() {
    let everywhere =
        || config("dc-1").listen(([0, 0, 0, 0], 0).into()).advertise("127.0.0.1:1".parse().expect("legal"));
    let warned = warnings(everywhere()).await;
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("not encrypted") && warned[0].contains(".tls("), "it says what to do: {warned:?}");
    assert_eq!(warnings(config("dc-1")).await, [""; 0], "the loopback is nobody else's");
    #[cfg(feature = "tls")]
    {
        let ca = crate::tls::certs::Ca::new();
        assert_eq!(warnings(everywhere().tls(ca.dc("dc-1").tls(&ca.pem))).await, [""; 0]);
    }
}

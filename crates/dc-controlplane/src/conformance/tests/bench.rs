//! What the harnesses on one store in memory share.

/// The hooks of a harness whose planes all work on one [`MemoryStore`](crate::memory::MemoryStore): `$cut` is how the
/// in-memory plane is reached through the harness's own kind of plane. The store's time is tokio's, which is paused.
macro_rules! memory_hooks {
    ($plane:ty, |$cut:ident| $inner:expr) => {
        async fn advance(&self, by: std::time::Duration) {
            tokio::time::advance(by).await;
        }

        fn ttl(&self) -> std::time::Duration {
            std::time::Duration::from_secs(30)
        }

        async fn requests(&self, store: &$crate::memory::MemoryStore) -> u64 {
            store.requests()
        }

        async fn write_raw(&self, store: &$crate::memory::MemoryStore, key: &str, bytes: &[u8]) {
            store.write_raw(key, bytes);
        }

        async fn stop_store(&self, store: &$crate::memory::MemoryStore) {
            store.stop();
        }

        async fn start_store(&self, store: &$crate::memory::MemoryStore) {
            store.start();
        }

        async fn freeze_store(&self, store: &$crate::memory::MemoryStore) {
            store.freeze();
        }

        async fn unfreeze_store(&self, store: &$crate::memory::MemoryStore) {
            store.unfreeze();
        }

        async fn open_cuttable(&self, store: &$crate::memory::MemoryStore) -> $plane {
            self.open(store).await
        }

        async fn cut(&self, _: &$crate::memory::MemoryStore, $cut: &$plane) {
            $inner.cut_off();
        }

        async fn uncut(&self, _: &$crate::memory::MemoryStore, $cut: &$plane) {
            $inner.reconnect();
        }
    };
}

/// Checks that a check finds a defect, and passes where there is none.
macro_rules! finds {
    ($($name:ident: $check:ident finds $($defect:ident),+;)+) => {$(
        #[test]
        fn $name() {
            $crate::conformance::run(async { $crate::conformance::$check(Bench::with(Defect::None)).await });
            $(
                let missed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    $crate::conformance::run(async {
                        $crate::conformance::$check(Bench::with(Defect::$defect)).await
                    });
                }));
                assert!(missed.is_err(), concat!(stringify!($check), " does not find ", stringify!($defect)));
            )+
        }
    )+};
}

pub(crate) use {finds, memory_hooks};

//! `ownership` of `multidc_fuzz_targets::TARGETS`, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (multidc_fuzz_targets::target("ownership").expect("in TARGETS").run)(bytes);
});

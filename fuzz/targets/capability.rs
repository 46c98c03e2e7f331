#![no_main]
#![allow(missing_docs, reason = "README.md lists the targets")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pointsman_fuzz::capability::run(data));

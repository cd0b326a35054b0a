#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    headswap_fuzz::check_keras(bytes);
});

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwright_fuzz::run("terminal_sizes", data));

//! Any text as the configuration: read, or refused in a sentence that names the place.
#![no_main]
use leadville_timesync::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text, "fuzz.toml") {
        Ok(config) => {
            let _ = config.notes();
            for server in &config.ntp.servers {
                assert!(!server.host().is_empty());
            }
        }
        Err(error) => {
            let sentence = error.to_string();
            assert!(sentence.contains("fuzz.toml"), "{sentence}");
        }
    }
});

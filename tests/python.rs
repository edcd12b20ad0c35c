//! The Python module, the drop-in for the former system, MQTT and the page's server, against the running daemon.
use std::process::Command;

fn unittest(module: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let ran = Command::new("python3")
        .args(["-m", "unittest", module])
        .current_dir(format!("{root}/tests/python"))
        .env("PYTHONPATH", format!("{root}/src/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LEADVILLE_TIMESYNC", env!("CARGO_BIN_EXE_leadville-timesync"))
        .output()
        .expect("python3 is needed: tests/setup.sh installs it");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("Ran ") && !said.contains("Ran 0 tests"), "{said}");
}

#[test]
fn the_python_module_says_what_the_daemon_says() {
    unittest("test_module");
}

#[test]
fn the_python_module_is_typed() {
    let packages = ["-p", "leadville_timesync", "-p", "impact_bridge"];
    let ran = Command::new("/usr/bin/mypy")
        .args(["--strict", "--cache-dir=/dev/null"])
        .args(packages)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/python"))
        .output()
        .expect("mypy is needed: tests/setup.sh installs it");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}

#[test]
fn the_drop_in_passes_the_former_systems_cases() {
    unittest("test_former_cases");
}

#[test]
#[cfg(feature = "web")]
fn a_broker_gets_what_happens_whether_down_restarted_or_slow() {
    assert!(std::path::Path::new(env!("CARGO_BIN_EXE_leadville-timesync-web")).exists());
    unittest("test_mqtt");
}

#[test]
#[cfg(feature = "web")]
fn the_page_stands_a_crowd_and_people_who_mean_no_good() {
    assert!(std::path::Path::new(env!("CARGO_BIN_EXE_leadville-timesync-web")).exists());
    unittest("test_page");
}

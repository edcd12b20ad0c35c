//! `web enable` and `web disable`, with a systemctl that only writes down what it is told.
#![cfg(feature = "web")]
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

struct Computer(tempfile::TempDir);

impl Computer {
    fn new(systemctl: &str) -> Self {
        let computer = Self(tempfile::tempdir().unwrap());
        let path = computer.0.path().join("systemctl");
        fs::write(
            &path,
            format!("#!/bin/sh\necho \"$@\" >> {}\n{systemctl}\n", computer.at("told")),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        computer
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn web(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_leadville-timesync"))
            .args(["web"])
            .args(words)
            .args(["--file", &self.at("etc/timesync-web.env")])
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .output()
            .unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }
}

#[test]
fn one_command_puts_the_page_on_the_ranges_network_and_one_takes_it_off() {
    let pi = Computer::new("");
    let ran = pi.web(&["enable", "--address", "127.0.0.1"]);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(said, "The page is at http://127.0.0.1:8460/ from now on.\n");
    assert!(pi.read("etc/timesync-web.env").ends_with("LEADVILLE_WEB_LISTEN=127.0.0.1:8460\n"));
    let unit = "leadville-timesync-web.service";
    assert_eq!(pi.read("told"), format!("--quiet enable {unit}\n--quiet restart {unit}\n"));

    // As of an access point that is not up yet.
    let ran = pi.web(&["enable", "--address", "192.0.2.7", "--port", "8461"]);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && said.contains("http://192.0.2.7:8461/"), "{ran:?}");
    assert!(said.contains("not an address of this computer now"), "{said}");
    let last = format!("--quiet restart --no-block {unit}\n");
    assert!(pi.read("told").ends_with(&last), "{}", pi.read("told"));

    assert!(!pi.read("etc/timesync-web.env").contains("PHONE"), "off unless it is asked for");
    assert!(pi.web(&["enable", "--phone-time"]).status.success());
    assert!(pi.read("etc/timesync-web.env").ends_with("\nLEADVILLE_WEB_PHONE_TIME=yes\n"));

    assert!(pi.web(&["disable"]).status.success());
    assert_eq!(pi.read("etc/timesync-web.env"), "");
    assert!(pi.read("told").ends_with(&format!("--quiet disable --now {unit}\n")));
    assert!(pi.web(&["disable"]).status.success(), "twice is no error");
}

#[test]
fn what_systemd_refuses_is_said() {
    let pi = Computer::new("echo 'Access denied' >&2; exit 4");
    let ran = pi.web(&["enable"]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(1));
    assert!(said.contains("Access denied") && said.contains("journalctl"), "{said}");
    assert_eq!(pi.web(&["enable", "--address", "somewhere"]).status.code(), Some(2));
    assert_eq!(pi.web(&["enable", "--port", "0"]).status.code(), Some(2));
}

/// The unit's file and the two programs must agree on the variable's name.
#[test]
fn the_unit_reads_what_the_command_writes() {
    let unit = include_str!("../systemd/leadville-timesync-web.service");
    assert!(unit.contains("EnvironmentFile=-/etc/leadville/timesync-web.env"));
    let page = Command::new(env!("CARGO_BIN_EXE_leadville-timesync-web"))
        .env("LEADVILLE_WEB_LISTEN", "nowhere")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&page.stderr).contains("LEADVILLE_WEB_LISTEN"));
}

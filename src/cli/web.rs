//! The page on the range's Wi-Fi with one command, and off it.
use super::say::{Done, Failure, say_line};
use clap::{Args, Subcommand};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unit of the page.
const UNIT: &str = "leadville-timesync-web.service";
/// Read by the unit: where the page is, and whether it takes a phone's time.
const FILE: &str = "/etc/leadville/timesync-web.env";
/// The page's port when none is named.
const PORT: u16 = 8460;

/// `web`
#[derive(Args, Debug)]
pub struct Web {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the page from now on, at every boot
    Enable(Enable),
    /// Show it no longer
    Disable(File),
}

#[derive(Args, Debug)]
struct Enable {
    /// An address of this computer; 127.0.0.1 is seen from here only, 0.0.0.0 from every network
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// The port
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Whoever sees the page may start the time with a phone's, while no server has said it
    #[arg(long)]
    phone_time: bool,
    #[command(flatten)]
    file: File,
}

#[derive(Args, Debug)]
struct File {
    /// Where the unit reads it
    #[arg(long, hide = true, default_value = FILE)]
    file: PathBuf,
}

pub fn web(args: &Web) -> Done {
    match &args.what {
        What::Enable(args) => enable(args),
        What::Disable(file) => disable(&file.file),
    }
}

fn enable(args: &Enable) -> Done {
    let at = SocketAddr::new(args.address, args.port);
    let free = TcpListener::bind(at).err().map(|e| e.kind());
    if free == Some(io::ErrorKind::PermissionDenied) {
        return Err(Failure::new(format!("port {} is not for ordinary programs", args.port))
            .hint(format!("leave --port out: the page is at port {PORT} then")));
    }
    let phone = if args.phone_time { "LEADVILLE_WEB_PHONE_TIME=yes\n" } else { "" };
    let text = format!(
        "# Written by `leadville-timesync web enable`.\nLEADVILLE_WEB_LISTEN={at}\n{phone}"
    );
    written(&args.file.file, |path| {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        std::fs::write(path, text)
    })?;
    systemctl(&["enable", UNIT])?;
    let absent = free == Some(io::ErrorKind::AddrNotAvailable);
    if absent {
        // systemd tries again until the address is there; nobody waits for that.
        systemctl(&["restart", "--no-block", UNIT])?;
    } else {
        systemctl(&["restart", UNIT])?;
    }
    if args.address.is_unspecified() {
        say_line(&format!("The page is at port {} of every address of this computer.", args.port))?;
    } else {
        say_line(&format!("The page is at http://{at}/ from now on."))?;
    }
    if absent {
        say_line(&format!(
            "Note: {} is not an address of this computer now; the page comes when it is.",
            args.address
        ))?;
    }
    Ok(0)
}

fn disable(file: &Path) -> Done {
    systemctl(&["disable", "--now", UNIT])?;
    written(file, |path| match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    })?;
    say_line("The page is shown no longer.")?;
    Ok(0)
}

fn written(path: &Path, change: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Failure> {
    change(path).map_err(|e| {
        let failure = Failure::new(format!("{} cannot be changed: {e}", path.display()));
        if e.kind() == io::ErrorKind::PermissionDenied {
            failure.hint("say it with sudo in front")
        } else {
            failure
        }
    })
}

fn systemctl(words: &[&str]) -> Result<(), Failure> {
    let ran = Command::new("systemctl").arg("--quiet").args(words).output().map_err(|e| {
        Failure::new(format!("systemctl cannot be run: {e}"))
            .hint("without systemd start `leadville-timesync-web --listen ADDRESS:PORT` yourself")
    })?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let failure = Failure::new(format!("systemctl {} failed: {}", words.join(" "), said.trim()));
    Err(failure.hint(format!("journalctl -u {UNIT}")))
}

//! A network, name service and disk of a test's own, where the test may have one.
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From here on the calling thread, and what it starts, has a network and mounts of its own. The
/// addresses 192.0.2.0/24 lead back to it and are not its own. `None`: it may not (and says so).
pub fn alone() -> Option<()> {
    let flags = CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if unshare(flags).is_err() {
        eprintln!("no rights for a network of its own: not tested");
        return None;
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).ok()?;
    ip("link set lo up").then_some(())
}

/// `ip` with these arguments.
pub fn ip(arguments: &str) -> bool {
    let arguments = arguments.split(' ');
    let ran = Command::new("/sbin/ip").args(arguments).status();
    ran.is_ok_and(|status| status.success())
}

/// 192.0.2.0/24 leads to this machine, which does not know these addresses for its own.
pub fn route() {
    assert!(ip("route add local 192.0.2.0/24 dev lo"));
}

/// Lays `text` over a file for this thread.
pub fn cover(file: &str, text: &str, place: &Path) {
    let over = place.join(file.replace('/', "_"));
    std::fs::write(&over, text).expect("written");
    let none: Option<&str> = None;
    mount(Some(&over), file, none, MsFlags::MS_BIND, none).expect("mounted");
}

/// A disk of its own over `path`.
pub fn disk(path: &Path, options: &str) {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("mounted");
}

/// What a name service says.
pub enum Says {
    /// An error, by its number.
    Error(u8),
    /// Nothing at all.
    Silence,
    /// These.
    Addresses(Vec<IpAddr>),
}

/// This thread's names are looked up at 127.0.0.1, where [`serve_names`] may answer.
pub fn own_names(place: &Path, options: &str) {
    let text = format!("nameserver 127.0.0.1\noptions {options}\n");
    cover("/etc/resolv.conf", &text, place);
    cover("/etc/nsswitch.conf", "hosts: files dns\n", place);
}

/// Serves names until the test ends.
pub fn serve_names(answer: impl Fn(&str, Duration) -> Says + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    let start = Instant::now();
    let datagrams = UdpSocket::bind("127.0.0.1:53").expect("the port for names");
    let streams = TcpListener::bind("127.0.0.1:53").expect("the port for names");
    let said = answer.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            let reply = reply(&buffer[..length], |name| said(name, start.elapsed()), 512);
            let _ = reply.map(|r| datagrams.send_to(&r, from));
        }
    });
    std::thread::spawn(move || {
        for stream in streams.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut question).is_err() {
                    break;
                }
                let answer = |name: &str| answer(name, start.elapsed());
                let Some(reply) = reply(&question, answer, 65_535) else { break };
                let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
                let _ = stream.write_all(&framed);
            }
        }
    });
}

fn reply(question: &[u8], answer: impl Fn(&str) -> Says, most: usize) -> Option<Vec<u8>> {
    let (mut name, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*question.get(at)?);
        if length == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(question.get(at + 1..=at + length)?).into_owned());
        at += length + 1;
    }
    let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
    let mut reply = question.get(..at + 5)?.to_vec();
    let (error, addresses) = match answer(&name.join(".")) {
        Says::Silence => return None,
        Says::Error(error) => (error, Vec::new()),
        Says::Addresses(all) => (0, all),
    };
    let wanted = addresses.iter().filter(|ip| if kind == 1 { ip.is_ipv4() } else { ip.is_ipv6() });
    let mut count = 0_u16;
    for ip in wanted.filter(|_| kind == 1 || kind == 28) {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        reply.extend_from_slice(&[0xc0, 12]);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, bytes.len() as u8]);
        reply.extend_from_slice(&bytes);
        count += 1;
    }
    let cut = reply.len() > most;
    if cut {
        reply.truncate(at + 5);
        count = 0;
    }
    (reply[2], reply[3]) = (0x81 | u8::from(cut) << 1, 0x80 | error);
    reply[6..8].copy_from_slice(&count.to_be_bytes());
    reply[8..12].fill(0);
    Some(reply)
}

/// 192.0.2.`n`.
pub fn elsewhere(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

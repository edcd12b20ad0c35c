//! Names to addresses, through the C library's resolver, which may hang for a minute: it runs in
//! threads of its own that nobody waits for when the program stops.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use tokio::sync::oneshot;

/// Addresses kept of one name.
pub const MOST: usize = 16;
/// Lookups at work at the same time; the others queue.
const THREADS: usize = 3;
/// A lookup that takes longer is reported, but goes on: the next question gets its answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a name gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The resolver says so, in its words.
    Failed(String),
    /// No answer yet.
    Slow,
    /// It has addresses, none of which can be a server.
    Unusable(Vec<IpAddr>),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "the name cannot be looked up: {why}"),
            Self::Slow => write!(f, "the name service does not answer"),
            Self::Unusable(all) => {
                write!(f, "none of the name's addresses can be a server:")?;
                all.iter().take(4).try_for_each(|a| write!(f, " {a}"))
            }
        }
    }
}

impl std::error::Error for ResolveError {}

type Answer = Result<Vec<SocketAddr>, ResolveError>;

/// The addresses of `name` with `port`, at most [`MOST`], in the resolver's order. An address
/// written out is never looked up. Questions for the same name share one lookup.
///
/// # Errors
/// Why there is no address that could be a server.
pub async fn resolve(name: &str, port: u16) -> Answer {
    let found = match literal(name, port) {
        Some(address) => vec![address],
        None => look_up(name, port).await?,
    };
    usable(&found)
}

async fn look_up(name: &str, port: u16) -> Answer {
    let (tell, told) = oneshot::channel();
    Desk::open().ask(name, port, tell);
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ResolveError::Failed("no thread could be started".to_owned())),
        Err(_) => Err(ResolveError::Slow),
    }
}

/// Who waits for which name, and the names no thread has taken yet.
#[derive(Default)]
struct Desk {
    waiting: HashMap<(String, u16), Vec<oneshot::Sender<Answer>>>,
    queue: VecDeque<(String, u16)>,
    threads: usize,
}

impl Desk {
    fn open() -> MutexGuard<'static, Self> {
        static DESK: LazyLock<Mutex<Desk>> = LazyLock::new(Mutex::default);
        DESK.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&mut self, name: &str, port: u16, tell: oneshot::Sender<Answer>) {
        let key = (name.to_owned(), port);
        if let Some(others) = self.waiting.get_mut(&key) {
            others.retain(|o| !o.is_closed());
            others.push(tell);
            return;
        }
        self.waiting.insert(key.clone(), vec![tell]);
        self.queue.push_back(key);
        if self.threads < THREADS {
            // glibc's resolver and its plug-ins keep kilobytes of buffers on the stack.
            let thread = std::thread::Builder::new().name("resolve".into()).stack_size(256 << 10);
            match thread.spawn(work) {
                Ok(_detached) => self.threads += 1,
                Err(_) if self.threads > 0 => {}
                Err(_) => {
                    self.queue.clear();
                    self.waiting.clear();
                }
            }
        }
    }
}

/// A thread's life: one name after the other until there are none.
fn work() {
    loop {
        let (name, port) = {
            let mut desk = Desk::open();
            let Some(next) = desk.queue.pop_front() else {
                desk.threads -= 1;
                return;
            };
            next
        };
        let answer = (name.as_str(), port)
            .to_socket_addrs()
            .map(Iterator::collect)
            .map_err(|e| ResolveError::Failed(plain(&e.to_string())));
        for tell in Desk::open().waiting.remove(&(name, port)).unwrap_or_default() {
            // Whoever asked may have lost patience.
            let _ = tell.send(answer.clone());
        }
    }
}

/// The resolver's own words, without what std puts before them.
fn plain(error: &str) -> String {
    error.trim_start_matches("failed to lookup address information: ").to_owned()
}

/// The address `name` spells out, with or without brackets, with or without an interface.
fn literal(name: &str, port: u16) -> Option<SocketAddr> {
    let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Some((ip, port).into());
    }
    let (ip, interface) = name.split_once('%')?;
    let scope = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(ip.parse().ok()?, port, 0, scope).into())
}

/// Leaves out what cannot be a server and what is there twice.
fn usable(found: &[SocketAddr]) -> Answer {
    let mut kept = Vec::new();
    for address in found {
        if can_be_a_server(address.ip()) && !kept.contains(address) && kept.len() < MOST {
            kept.push(*address);
        }
    }
    if kept.is_empty() {
        return Err(ResolveError::Unusable(found.iter().map(SocketAddr::ip).collect()));
    }
    Ok(kept)
}

fn can_be_a_server(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        // 0.0.0.0/8 means "this network", 240.0.0.0/4 is reserved and holds the broadcast address.
        IpAddr::V4(v4) => v4.octets()[0] != 0 && !v4.is_multicast() && v4.octets()[0] < 240,
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

/// Every address of this machine but the loopback ones. Empty when the kernel does not tell.
#[must_use]
pub fn own_addresses() -> Vec<IpAddr> {
    let mut own = Vec::new();
    for interface in getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())));
        own.extend(ip.filter(|ip| !ip.is_loopback()));
    }
    own.sort_unstable();
    own.dedup();
    own
}

/// The last good addresses of each name, to start with when no name service answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastGood {
    by_name: BTreeMap<String, Vec<IpAddr>>,
}

impl LastGood {
    /// Names kept.
    pub const MOST_NAMES: usize = 64;

    /// From the text of [`Self::text`]; lines that make no sense are left out.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let good: Vec<IpAddr> = words.filter_map(|w| w.parse().ok()).collect();
            read.remember(name, &good);
        }
        read
    }

    /// One line per name: the name and its addresses.
    #[must_use]
    pub fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for (name, good) in &self.by_name {
            text.push_str(name);
            for ip in good {
                let _ = write!(text, " {ip}");
            }
            text.push('\n');
        }
        text
    }

    /// Keeps the addresses of `name`; `true` when they differ from those kept before.
    pub fn remember(&mut self, name: &str, good: &[IpAddr]) -> bool {
        let mut good: Vec<IpAddr> =
            good.iter().copied().filter(|ip| can_be_a_server(*ip)).take(MOST).collect();
        good.sort_unstable();
        good.dedup();
        let known = self.by_name.get(name);
        let room = known.is_some() || self.by_name.len() < Self::MOST_NAMES;
        if good.is_empty() || known == Some(&good) || !room {
            return false;
        }
        self.by_name.insert(name.to_owned(), good);
        true
    }

    /// The addresses of `name` with `port`, empty when it was never found.
    #[must_use]
    pub fn recall(&self, name: &str, port: u16) -> Vec<SocketAddr> {
        self.by_name.get(name).into_iter().flatten().map(|ip| (*ip, port).into()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(resolve(name, 123))
    }

    #[test]
    fn an_address_written_out_is_taken_at_its_word() {
        for (name, address) in [
            ("192.0.2.7", "192.0.2.7:123"),
            ("2001:db8::7", "[2001:db8::7]:123"),
            ("[::1]", "[::1]:123"),
            ("fe80::1%1", "[fe80::1%1]:123"),
            ("fe80::1%lo", "[fe80::1%1]:123"),
        ] {
            assert_eq!(ask(name).unwrap(), [address.parse().unwrap()], "{name}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_a_server_is_refused_and_named() {
        for name in ["0.0.0.0", "224.0.1.1", "255.255.255.255", "::", "ff02::101", "::ffff:0.0.0.0"]
        {
            let Err(ResolveError::Unusable(all)) = ask(name) else { panic!("{name} was taken") };
            assert!(ResolveError::Unusable(all).to_string().contains(name), "{name}");
        }
    }

    #[test]
    fn a_name_of_this_machine_is_looked_up() {
        let found = ask("localhost").unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 123), "{found:?}");
    }

    #[test]
    fn many_questions_for_one_name_share_a_lookup_and_all_are_answered() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let all = (0..200).map(|i| {
                let name = if i % 2 == 0 { "localhost" } else { "name.invalid" };
                tokio::spawn(async move { (i, resolve(name, 1).await) })
            });
            for asked in all.collect::<Vec<_>>() {
                let (i, answer) = asked.await.unwrap();
                assert_eq!(answer.is_ok(), i % 2 == 0, "{i}: {answer:?}");
            }
        });
        assert!(Desk::open().waiting.is_empty());
    }

    #[test]
    fn five_thousand_addresses_become_sixteen_different_ones() {
        let found = (0..5_000_u32).map(|i| {
            let ip = std::net::Ipv4Addr::from(0xc000_0200 + i % 100);
            (ip, 123).into()
        });
        let kept = usable(&found.collect::<Vec<_>>()).unwrap();
        assert_eq!(kept.len(), MOST);
        assert_eq!(kept.iter().collect::<std::collections::HashSet<_>>().len(), MOST);
    }

    #[test]
    fn the_last_good_addresses_survive_as_text_and_nonsense_does_not() {
        let mut good = LastGood::default();
        let ips: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert!(good.remember("a.example", &ips) && !good.remember("a.example", &ips));
        assert_eq!(LastGood::from_text(&good.text()), good);
        assert_eq!(good.recall("a.example", 5)[0], "192.0.2.1:5".parse().unwrap());
        assert!(good.recall("b.example", 5).is_empty());
        let torn = LastGood::from_text("a.example 192.0.2.1 2001:\n\nb 0.0.0.0 \u{fffd}\nc\n");
        assert_eq!(torn.text(), "a.example 192.0.2.1\n");
    }

    #[test]
    fn own_addresses_hold_no_loopback() {
        assert!(own_addresses().iter().all(|ip| !ip.is_loopback()));
    }
}

//! Names and addresses: which address each of the engine's servers has, and when to look again.
use crate::config::{ServerEntry, nearby};
use crate::engine::source::ServerSpec;
use crate::engine::{SAME_SERVER, ServerId};
use crate::os::resolve::{LastGood, MOST, ResolveError};
use crate::units::{Nanos, RawTime};
use std::net::{IpAddr, SocketAddr};

/// Addresses of a pool used at once.
const POOL_USED: usize = 4;
/// A name that has an address is looked up again after so long (a pool sooner than a host).
const POOL_AGAIN: Nanos = Nanos::from_secs(5_400);
const HOST_AGAIN: Nanos = Nanos::from_secs(6 * 3_600);
/// Silent requests after which a pool's server gives way to another.
const POOL_PATIENCE: u32 = 8;

/// What a lookup changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This server has another address now.
    Moved(ServerId),
    /// One more server, of this entry.
    Added(ServerSpec),
    /// All addresses of its name are our own.
    Ourselves(ServerId),
}

struct Entry {
    config: ServerEntry,
    known: Vec<SocketAddr>,
    looking: bool,
    again: RawTime,
    failures: u32,
    trouble: Option<String>,
    /// Not configured any more: its addresses are free for others.
    retired: bool,
}

struct Slot {
    entry: usize,
    address: Option<SocketAddr>,
}

/// All configured servers and pools.
pub struct Servers {
    entries: Vec<Entry>,
    slots: Vec<Slot>,
}

fn spec(entry: &ServerEntry, address: Option<SocketAddr>) -> ServerSpec {
    let nearby = entry.literal_address().is_some_and(|a| nearby(a.ip()));
    let operator = match address {
        // On our own network every socket is taken at its word.
        _ if nearby => entry.text().to_owned(),
        Some(a) => entry.operator_at(a.ip()),
        None => entry.operator(),
    };
    ServerSpec {
        name: entry.text().to_owned(),
        operator,
        trust: entry.trust(),
        smeared: entry.smeared(),
        nearby,
        passive: false,
    }
}

impl Servers {
    /// One server per entry, with the address written there or the last good one.
    #[must_use]
    pub fn new(
        configured: &[ServerEntry],
        good: &LastGood,
        now: RawTime,
    ) -> (Self, Vec<ServerSpec>) {
        let mut servers = Self { entries: Vec::new(), slots: Vec::new() };
        let mut specs = Vec::new();
        for entry in configured {
            specs.extend(servers.add(entry.clone(), good, now));
        }
        (servers, specs)
    }

    /// One more entry; its servers' specs in the order of their ids.
    pub fn add(&mut self, config: ServerEntry, good: &LastGood, now: RawTime) -> Vec<ServerSpec> {
        let literal = config.literal_address();
        let known = match literal {
            Some(address) => vec![address],
            None => good.recall(config.host(), config.port()),
        };
        // A hotspot may have answered every name with one address: it is one server all the same.
        let free: Vec<SocketAddr> = known.iter().copied().filter(|a| !self.uses(*a)).collect();
        let used = if config.is_pool() { POOL_USED } else { 1 };
        let entry = self.entries.len();
        let mut specs = Vec::new();
        for n in 0..used.min(free.len().max(1)) {
            let address = free.get(n).copied();
            specs.push(spec(&config, address));
            self.slots.push(Slot { entry, address });
        }
        self.entries.push(Entry {
            config,
            known,
            looking: false,
            again: now,
            failures: 0,
            trouble: (free.is_empty() && literal.is_some()).then(|| SAME_SERVER.to_owned()),
            retired: false,
        });
        specs
    }

    /// Keeps the next id for a source that has no address.
    pub fn reserve(&mut self) {
        self.slots.push(Slot { entry: usize::MAX, address: None });
    }

    /// The servers of an entry, by id.
    pub fn of(&self, entry: usize) -> impl Iterator<Item = ServerId> + '_ {
        let slots = self.slots.iter().enumerate();
        slots.filter(move |(_, s)| s.entry == entry).map(|(id, _)| id)
    }

    /// Where an entry stands in the list, if it is configured.
    #[must_use]
    pub fn find(&self, config: &ServerEntry) -> Option<usize> {
        self.entries.iter().position(|e| e.config == *config)
    }

    /// The entry at this place.
    #[must_use]
    pub fn entry(&self, entry: usize) -> &ServerEntry {
        &self.entries[entry].config
    }

    /// How many entries there are, retired ones included.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// The address of a server.
    #[must_use]
    pub fn address(&self, id: ServerId) -> Option<SocketAddr> {
        self.slots.get(id).and_then(|s| s.address)
    }

    /// What is wrong with a server's name, in words.
    #[must_use]
    pub fn trouble(&self, id: ServerId) -> Option<&str> {
        let entry = self.slots.get(id).and_then(|s| self.entries.get(s.entry));
        entry.and_then(|e| e.trouble.as_deref())
    }

    /// The entry to look up before asking this server, if it is time to; notes that it is being
    /// looked up.
    pub fn lookup(&mut self, id: ServerId, now: RawTime) -> Option<(usize, String, u16)> {
        let entry = self.slots.get(id)?.entry;
        let e = self.entries.get_mut(entry)?;
        if e.looking || e.config.literal_address().is_some() || e.again > now {
            return None;
        }
        e.looking = true;
        Some((entry, e.config.host().to_owned(), e.config.port()))
    }

    /// The network changed: names that failed may work now.
    pub fn fresh_network(&mut self, now: RawTime) {
        for e in &mut self.entries {
            if e.failures > 0 {
                e.failures = 0;
                e.again = now;
            }
        }
    }

    /// The result of a lookup.
    pub fn resolved(
        &mut self,
        entry: usize,
        result: Result<Vec<SocketAddr>, ResolveError>,
        own: &[IpAddr],
        now: RawTime,
    ) -> Vec<Change> {
        let ids: Vec<ServerId> = self.of(entry).collect();
        let e = &mut self.entries[entry];
        e.looking = false;
        if e.retired {
            return Vec::new();
        }
        let found = match result {
            Err(why) => {
                // 1, 2, 4 … 64 s; never given up.
                e.again = now + Nanos::from_secs(1 << e.failures.min(6));
                e.failures += 1;
                e.trouble = Some(why.to_string());
                return Vec::new();
            }
            Ok(found) => found,
        };
        let foreign: Vec<SocketAddr> = found
            .iter()
            .copied()
            .filter(|a| !own.contains(&a.ip()) && !a.ip().is_loopback())
            .collect();
        if foreign.is_empty() {
            e.again = now + Nanos::from_secs(60);
            e.failures += 1;
            e.trouble = Some(
                "the name leads to this machine itself (the access point answers every name?)"
                    .into(),
            );
            return ids.into_iter().map(Change::Ourselves).collect();
        }
        e.failures = 0;
        e.trouble = None;
        e.again = now + if e.config.is_pool() { POOL_AGAIN } else { HOST_AGAIN };
        for address in foreign {
            if !e.known.contains(&address) {
                e.known.push(address);
            }
        }
        // A host that moved: what it says now comes first. A pool keeps what works.
        if !e.config.is_pool() {
            e.known.retain(|a| found.contains(a));
        }
        while e.known.len() > MOST {
            e.known.remove(0);
        }
        let mut changes = Vec::new();
        for id in ids {
            let still =
                self.slots[id].address.is_some_and(|a| self.entries[entry].known.contains(&a));
            if !still && let Some(address) = self.unused(entry) {
                self.slots[id].address = Some(address);
                changes.push(Change::Moved(id));
            }
        }
        if self.of(entry).all(|id| self.slots[id].address.is_none()) {
            self.entries[entry].trouble = Some(SAME_SERVER.to_owned());
            self.entries[entry].again = now + Nanos::from_secs(600);
        }
        if self.entries[entry].config.is_pool() {
            while self.of(entry).count() < POOL_USED {
                let Some(address) = self.unused(entry) else { break };
                self.slots.push(Slot { entry, address: Some(address) });
                changes.push(Change::Added(spec(&self.entries[entry].config, Some(address))));
            }
        }
        changes
    }

    fn unused(&self, entry: usize) -> Option<SocketAddr> {
        self.entries[entry].known.iter().find(|a| !self.uses(**a)).copied()
    }

    /// Whether a server that is configured has this address.
    fn uses(&self, address: SocketAddr) -> bool {
        let active = |s: &&Slot| self.entries.get(s.entry).is_some_and(|e| !e.retired);
        self.slots.iter().filter(active).any(|s| s.address == Some(address))
    }

    /// An entry is not configured any more; its servers, by id.
    pub fn retire(&mut self, entry: usize) -> Vec<ServerId> {
        self.entries[entry].retired = true;
        self.of(entry).collect()
    }

    /// An entry is configured again: its servers, by id, unless it never was away. What another
    /// server has taken over meanwhile stays with that one.
    pub fn revive(&mut self, entry: usize, now: RawTime) -> Vec<ServerId> {
        if !self.entries[entry].retired {
            return Vec::new();
        }
        let ids: Vec<ServerId> = self.of(entry).collect();
        for &id in &ids {
            if self.slots[id].address.is_some_and(|a| self.uses(a)) {
                self.slots[id].address = None;
                self.entries[entry].trouble = Some(SAME_SERVER.to_owned());
            }
        }
        let e = &mut self.entries[entry];
        (e.retired, e.again) = (false, now);
        ids
    }

    /// A pool's server that stays silent or lies gives way to another of the pool's; whether it did.
    pub fn replace(&mut self, id: ServerId, silent: u32, lying: bool, now: RawTime) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        let entry = slot.entry;
        if entry >= self.entries.len()
            || !self.entries[entry].config.is_pool()
            || !(silent >= POOL_PATIENCE || lying)
        {
            return false;
        }
        let old = slot.address;
        let Some(new) = self.unused(entry) else {
            self.entries[entry].again = self.entries[entry].again.min(now);
            return false;
        };
        self.entries[entry].known.retain(|a| Some(*a) != old);
        self.slots[id].address = Some(new);
        true
    }

    /// The addresses worth keeping on the disk, by name.
    pub fn good(&self) -> impl Iterator<Item = (&str, Vec<IpAddr>)> {
        let named = self.entries.iter().filter(|e| e.config.literal_address().is_none());
        named.map(|e| (e.config.host(), e.known.iter().map(SocketAddr::ip).collect()))
    }
}

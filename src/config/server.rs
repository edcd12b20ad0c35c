//! A server as it is written: a name or an address, perhaps a port, and what is known of it.
use serde::de::{
    Deserialize, Deserializer, Error, MapAccess, Visitor, value::MapAccessDeserializer,
};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Names whose time is smeared around a leap second, by how they end.
const SMEARED: [&str; 4] = ["google.com", "facebook.com", "aws.com", "169.254.169.123"];

/// Second-level names under which registries sell the third level.
const REGISTRIES: [&str; 8] = ["ac", "co", "com", "edu", "gov", "net", "org", "gob"];

/// A host, and a port that is `PORT` if none is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint<const PORT: u16> {
    /// A name or an address, without brackets.
    pub host: String,
    /// 1..65535.
    pub port: u16,
}

/// One entry of `ntp.servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    text: String,
    endpoint: Endpoint<123>,
    operator: Option<String>,
    pool: bool,
    trust: bool,
    smeared: bool,
}

/// Addresses that share their first `prefix` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl ServerEntry {
    /// A server of which only the name or address (with a port, or not) is known.
    ///
    /// # Errors
    /// Says in a sentence what is wrong with the text.
    pub fn named(text: &str) -> Result<Self, String> {
        let endpoint: Endpoint<123> = text.parse()?;
        if let Some(address) = endpoint.literal_address() {
            let ip = address.ip();
            let wrong = match ip {
                _ if ip.is_unspecified() => Some("no address at all"),
                _ if ip.is_multicast() => Some("a multicast address"),
                IpAddr::V4(v4) if v4.is_broadcast() => Some("a broadcast address"),
                _ => None,
            };
            if let Some(wrong) = wrong {
                return Err(format!("\"{text}\" is {wrong}, not a server's"));
            }
        }
        let host = endpoint.host.trim_end_matches('.').to_ascii_lowercase();
        let under = |domain: &&str| {
            host.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        Ok(Self {
            text: text.trim().into(),
            operator: None,
            pool: under(&"pool.ntp.org"),
            trust: false,
            smeared: SMEARED.iter().any(under),
            endpoint,
        })
    }

    /// As written in the configuration.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
    /// The name or address, without brackets and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.endpoint.host
    }
    /// The port, 1..65535; 123 if none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.endpoint.port
    }
    /// Address and port, if the entry is an address and needs no resolving.
    #[must_use]
    pub fn literal_address(&self) -> Option<SocketAddr> {
        self.endpoint.literal_address()
    }
    /// The name stands for many servers; several of its addresses are used, each an operator of
    /// its own.
    #[must_use]
    pub fn is_pool(&self) -> bool {
        self.pool
    }
    /// Its word alone makes the time *verified*.
    #[must_use]
    pub fn trust(&self) -> bool {
        self.trust
    }
    /// Its time is smeared around a leap second.
    #[must_use]
    pub fn smeared(&self) -> bool {
        self.smeared
    }
    /// Who runs it: what the configuration says, else the registrable domain, else the address.
    #[must_use]
    pub fn operator(&self) -> String {
        if let Some(operator) = &self.operator {
            return operator.clone();
        }
        if self.literal_address().is_some() {
            return self.host().to_owned();
        }
        let host = self.host().trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = host.rsplit('.').collect();
        let country = labels.first().is_some_and(|top| top.len() == 2);
        let third = country && labels.get(1).is_some_and(|second| REGISTRIES.contains(second));
        let wanted = if third { 3 } else { 2 };
        labels.iter().take(wanted).rev().copied().collect::<Vec<_>>().join(".")
    }
    /// Who runs the server at one of the entry's addresses: each of a pool is its own operator.
    #[must_use]
    pub fn operator_at(&self, address: IpAddr) -> String {
        if self.pool && self.operator.is_none() { address.to_string() } else { self.operator() }
    }
}

impl<const PORT: u16> Endpoint<PORT> {
    /// Address and port, if the host is an address.
    #[must_use]
    pub fn literal_address(&self) -> Option<SocketAddr> {
        // An IPv4 address written as IPv6 is the same server.
        let ip = self.host.parse::<IpAddr>().ok()?.to_canonical();
        Some(SocketAddr::new(ip, self.port))
    }
}

impl<const PORT: u16> FromStr for Endpoint<PORT> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("a server's name or address is missing".into());
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(format!("\"{text}\" is a URL; write \"{rest}\" without {scheme}://"));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| format!("\"{text}\" has an opening bracket but no closing one"))?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return Err(format!("\"{text}\" has something other than a port after ]")),
            };
            if !is_ipv6(host) {
                return Err(format!("\"{text}\": {host} is not an IPv6 address"));
            }
            (host, port)
        } else if is_ipv6(text) {
            (text, None)
        } else if text.matches(':').count() > 1 {
            return Err(format!(
                "\"{text}\" is not an IPv6 address; with a port it is written \"[::1]:123\""
            ));
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let port = match port {
            None => PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|&n| n > 0 && port.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| format!("\"{text}\": the port must be a number from 1 to 65535"))?,
        };
        if !is_ipv6(host) {
            well_formed(host).map_err(|why| format!("\"{text}\": {why}"))?;
        }
        Ok(Self { host: host.into(), port })
    }
}

fn is_ipv6(host: &str) -> bool {
    match host.split_once('%') {
        None => host.parse::<Ipv6Addr>().is_ok(),
        Some((address, zone)) => {
            let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(letter)
        }
    }
}

/// A name of the DNS or an IPv4 address.
fn well_formed(host: &str) -> Result<(), String> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if !name.is_ascii() {
        return Err("write an international name in its xn-- form".into());
    }
    if name.is_empty() || name.len() > 253 {
        return Err("a name has 1 to 253 characters".into());
    }
    for label in name.split('.') {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-') {
            return Err("between the dots of a name stand 1 to 63 characters".into());
        }
        if let Some(odd) = label.bytes().find(|&b| !letter(b)) {
            return Err(format!("'{}' cannot stand in a name", char::from(odd).escape_default()));
        }
    }
    if name.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit())) {
        return Err("this is neither a name nor a complete IPv4 address".into());
    }
    Ok(())
}

impl<'de, const PORT: u16> Deserialize<'de> for Endpoint<PORT> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(Error::custom)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: String,
    operator: Option<String>,
    pool: Option<bool>,
    trust: Option<bool>,
    smeared: Option<bool>,
}

impl<'de> Deserialize<'de> for ServerEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = ServerEntry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a server's name or address in quotes, or { address = \"…\", … }")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ServerEntry, E> {
                ServerEntry::named(text).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ServerEntry, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                let mut entry = ServerEntry::named(&table.address).map_err(Error::custom)?;
                entry.operator = table.operator.filter(|name| !name.is_empty());
                entry.pool = table.pool.unwrap_or(entry.pool);
                entry.trust = table.trust.unwrap_or(entry.trust);
                entry.smeared = table.smeared.unwrap_or(entry.smeared);
                if entry.pool && entry.literal_address().is_some() {
                    return Err(Error::custom(format!(
                        "\"{}\" is an address: only a name can be a pool",
                        entry.text
                    )));
                }
                Ok(entry)
            }
        }
        from.deserialize_any(Entry)
    }
}

/// On this machine, or on a network of one's own: every socket there is a server of its own, asked as
/// often as is wanted. An IPv4 address written as IPv6 counts as IPv4.
#[must_use]
pub fn nearby(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

impl Network {
    /// The address is one of this network's. An IPv4 address written as IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a network such as \"192.168.4.0/24\"");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().ok().filter(|&n| n <= bits).ok_or_else(wrong)?,
        };
        Ok(Self { address, prefix })
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(Error::custom)
    }
}

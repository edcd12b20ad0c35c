//! Asking servers once, without the daemon. It never steers, and believes nobody: it only tells
//! what each server says.
use super::ask::pretty;
use super::positive_span;
use super::say::{Done, Failure, say_line};
use super::words::{amount, at_most, sided};
use crate::config::{ServerEntry, nearby};
use crate::engine::packet::{Exchange, Leap};
use crate::engine::source::{Rules, ServerSpec, Source};
use crate::os::{clock, ntp, resolve};
use crate::state::PROTOCOL;
use crate::units::{Nanos, Reading, UtcTime};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// `query`
#[derive(Args, Debug)]
pub struct Query {
    /// Names or addresses, with or without a port
    #[arg(required = true, value_name = "SERVER")]
    servers: Vec<String>,
    /// Ask so often, 4 s apart (less on the own network)
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Longest wait for a reply
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = positive_span)]
    timeout: Nanos,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// NIST's rule for servers that are not ours.
const SPACING: Duration = Duration::from_secs(4);
const SPACING_NEARBY: Duration = Duration::from_millis(50);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 3;

/// What one exchange told.
#[derive(Clone, Debug)]
struct Heard {
    address: SocketAddr,
    at: UtcTime,
    offset: Nanos,
    delay: Nanos,
    max_error: Nanos,
    stratum: u8,
    reference: String,
    leap: Leap,
    root_delay: Nanos,
    root_dispersion: Nanos,
}

type Outcome = Result<Heard, String>;

/// When each server may be asked again (monotonic clock, ns).
type Turns = Arc<Mutex<BTreeMap<SocketAddr, i64>>>;

pub fn query(args: &Query) -> Done {
    let mut servers = Vec::new();
    for text in &args.servers {
        let server = ServerEntry::named(text).map_err(|why| Failure::new(why).usage())?;
        servers.push(server);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(ask_all(&servers, args));
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    let outcomes = done?;
    let best = outcomes
        .iter()
        .flatten()
        .filter_map(|outcome| outcome.as_ref().ok())
        .min_by_key(|heard| heard.max_error);
    if args.json {
        say_line(&pretty(&report(&servers, &outcomes, best)))?;
    } else {
        tell(&servers, &outcomes, args.count)?;
    }
    Ok(u8::from(best.is_none()))
}

/// Asks all at once and tells each answer as it comes, if there are several.
async fn ask_all(servers: &[ServerEntry], args: &Query) -> Result<Vec<Vec<Outcome>>, Failure> {
    let timeout = Duration::from_nanos(args.timeout.get().unsigned_abs());
    let (tell, mut told) = mpsc::channel(16);
    let turns = Turns::default();
    for (index, server) in servers.iter().cloned().enumerate() {
        let (tell, turns, count) = (tell.clone(), turns.clone(), args.count);
        tokio::spawn(async move {
            let mut addresses = Vec::new();
            for _ in 0..count {
                let outcome = ask(&server, &mut addresses, timeout, &turns).await;
                if tell.send((index, outcome)).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut outcomes = vec![Vec::new(); servers.len()];
    while let Some((index, outcome)) = told.recv().await {
        if args.count > 1 && !args.json {
            say_line(&line(&servers[index], &outcome))?;
        }
        outcomes[index].push(outcome);
    }
    Ok(outcomes)
}

/// One exchange; the addresses of a name are tried in turn until one answers.
async fn ask(
    server: &ServerEntry,
    addresses: &mut Vec<SocketAddr>,
    timeout: Duration,
    turns: &Turns,
) -> Outcome {
    if addresses.is_empty() {
        let found = tokio::time::timeout(
            timeout.max(Duration::from_secs(5)),
            resolve::resolve(server.host(), server.port()),
        )
        .await
        .map_err(|_| "the name service does not answer".to_owned())?
        .map_err(|why| why.to_string())?;
        addresses.extend(found.into_iter().take(ADDRESSES));
    }
    let mut refusal = "the name has no address".to_owned();
    for (index, &address) in addresses.iter().enumerate() {
        wait_for_turn(address, turns).await;
        match ntp::exchange(address, tokio::time::sleep(timeout)).await {
            Ok(exchange) => {
                let heard = read(server, address, &exchange, clock::read());
                addresses.swap(0, index);
                addresses.truncate(1);
                return heard;
            }
            Err((why, bogus)) => {
                let skipped = bogus.wrong_length + bogus.wrong_origin + bogus.wrong_address;
                refusal = match skipped {
                    0 => why.to_string(),
                    n => format!("{why}; {n} datagrams were no answer to our request"),
                };
            }
        }
    }
    Err(refusal)
}

async fn wait_for_turn(address: SocketAddr, turns: &Turns) {
    // Nearby every socket is a server of its own; elsewhere an address is one, whatever its ports.
    let (spacing, server) = if nearby(address.ip()) {
        (SPACING_NEARBY, address)
    } else {
        (SPACING, SocketAddr::new(address.ip(), 0))
    };
    let now = clock::monotonic_now();
    let turn = {
        let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
        let free = turns.entry(server).or_insert(now);
        let turn = (*free).max(now);
        *free = turn + i64::try_from(spacing.as_nanos()).unwrap_or(i64::MAX);
        turn
    };
    if turn > now {
        tokio::time::sleep(Duration::from_nanos((turn - now).unsigned_abs())).await;
    }
}

/// What an exchange says about our clock as it stands at `now`.
fn read(server: &ServerEntry, address: SocketAddr, exchange: &Exchange, now: Reading) -> Outcome {
    let spec = ServerSpec { name: server.text().into(), ..ServerSpec::default() };
    let mut source = Source::new(spec, exchange.sent);
    let rules = Rules {
        // Our clock resolves the era, unless it was never set.
        around: now.utc.max(UtcTime::from_nanos(1_767_225_600_000_000_000)),
        earliest: UtcTime::from_nanos(i64::MIN),
        latest: UtcTime::from_nanos(i64::MAX),
        mark: None,
        own: &[],
    };
    let sample = source.read(exchange, &rules).map_err(|why| why.to_string())?;
    let (_, reply) = source.last.ok_or("nothing was said")?;
    let delay = sample.outward - sample.homeward;
    let truth_minus_raw = sample.homeward + delay.half();
    Ok(Heard {
        address,
        at: now.utc,
        offset: truth_minus_raw - now.utc_minus_raw(),
        delay,
        max_error: delay.half() + sample.root_distance + sample.precision,
        stratum: reply.stratum,
        reference: reply.reference_name(),
        leap: reply.leap,
        root_delay: reply.root_delay,
        root_dispersion: reply.root_dispersion,
    })
}

/// One answer in words.
fn line(server: &ServerEntry, outcome: &Outcome) -> String {
    match outcome {
        Err(why) => format!("{}: {why}", server.text()),
        Ok(heard) => {
            let leap = match heard.leap {
                Leap::None => "",
                Leap::Insert => ", announces a leap second",
                Leap::Delete => ", announces that a second is left out",
            };
            format!(
                "{}: we are {}; round trip {}, guaranteed {}, stratum {} ({}){leap}",
                server.text(),
                sided(heard.offset.as_micros_f64()),
                amount(heard.delay.as_micros_f64()),
                at_most(heard.max_error.as_micros_f64()),
                heard.stratum,
                heard.reference
            )
        }
    }
}

/// The quickest of a server's answers.
fn quickest(outcomes: &[Outcome]) -> Option<&Heard> {
    outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).min_by_key(|heard| heard.delay)
}

fn tell(servers: &[ServerEntry], all: &[Vec<Outcome>], count: u32) -> Result<(), Failure> {
    for (server, outcomes) in servers.iter().zip(all) {
        match (quickest(outcomes), outcomes.last()) {
            (Some(heard), _) if count > 1 => {
                let usable = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
                let text = line(server, &Ok(heard.clone()));
                say_line(&format!("quickest of {usable} answers to {count} requests: {text}"))?;
            }
            (Some(heard), _) => say_line(&line(server, &Ok(heard.clone())))?,
            (None, Some(outcome)) if count == 1 => say_line(&line(server, outcome))?,
            (None, _) => say_line(&format!("{}: no usable answer", server.text()))?,
        }
    }
    Ok(())
}

fn report(servers: &[ServerEntry], all: &[Vec<Outcome>], best: Option<&Heard>) -> Value {
    let servers: Vec<Value> = servers
        .iter()
        .zip(all)
        .map(|(server, outcomes)| {
            let heard = quickest(outcomes);
            let mut value = heard.map_or_else(|| figures(None), |heard| figures(Some(heard)));
            value["name"] = server.text().into();
            value["requests"] = outcomes.len().into();
            value["replies"] = outcomes.iter().filter(|outcome| outcome.is_ok()).count().into();
            value["error"] = match (heard, outcomes.last()) {
                (None, Some(Err(why))) => why.as_str().into(),
                _ => Value::Null,
            };
            value["exchanges"] = outcomes
                .iter()
                .map(|outcome| match outcome {
                    Ok(heard) => figures(Some(heard)),
                    Err(why) => json!({"error": why}),
                })
                .collect();
            value
        })
        .collect();
    json!({
        "v": PROTOCOL,
        "reply": "query",
        "offset_us": best.map(|heard| heard.offset.as_micros_f64()),
        "max_error_us": best.map(|heard| heard.max_error.as_micros_f64()),
        "servers": servers,
    })
}

/// The figures of an exchange; all unknown if there was none.
fn figures(heard: Option<&Heard>) -> Value {
    json!({
        "address": heard.map(|h| h.address.to_string()),
        "utc": heard.map(|h| (h.at + h.offset).iso(9)),
        "offset_us": heard.map(|h| h.offset.as_micros_f64()),
        "delay_us": heard.map(|h| h.delay.as_micros_f64()),
        "max_error_us": heard.map(|h| h.max_error.as_micros_f64()),
        "stratum": heard.map(|h| h.stratum),
        "reference_id": heard.map(|h| h.reference.clone()),
        "leap": heard.map(|h| match h.leap {
            Leap::None => 0,
            Leap::Insert => 1,
            Leap::Delete => -1,
        }),
        "root_delay_us": heard.map(|h| h.root_delay.as_micros_f64()),
        "root_dispersion_us": heard.map(|h| h.root_dispersion.as_micros_f64()),
    })
}

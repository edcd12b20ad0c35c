//! `make flood`: ten thousand random datagrams a second for a minute, from the server's own
//! address and port to the port that asks. Not part of the ordinary tests: it takes its minute.
use crate::daemon::Place;
use crate::server::{Liar, Request, Say};
use leadville_timesync::sim::Random;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PER_SECOND: u32 = 10_000;
const LASTS: Duration = Duration::from_secs(60);

/// Sends until the time is over; how many left.
fn spray(socket: &UdpSocket, to: &Mutex<Option<SocketAddr>>, stop: &AtomicBool) -> u64 {
    let (start, mut sent) = (Instant::now(), 0_u64);
    let mut chance = Random::new(11, 5);
    let mut datagram = [0; 96];
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_secs_f64() * f64::from(PER_SECOND);
        let target = *to.lock().unwrap();
        while (sent as f64) < due {
            for byte in &mut datagram {
                *byte = (chance.uniform() * 256.0) as u8;
            }
            // Half of them have the length of a reply.
            let length = if sent.is_multiple_of(2) { 48 } else { (sent % 97) as usize };
            if let Some(target) = target {
                let _ = socket.send_to(&datagram[..length], target);
            }
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

#[test]
#[ignore = "takes a minute: make flood"]
fn a_flood_of_random_datagrams_costs_little_is_hardly_mentioned_and_the_good_reply_is_used() {
    flood(LASTS, 10);
}

/// The same for some seconds, to show that the flood is heard: else the long one could not fail.
#[test]
fn a_short_flood_is_counted_and_survived() {
    flood(Duration::from_secs(12), 2);
}

fn flood(lasts: Duration, least: u64) {
    let to: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let stop: Arc<AtomicBool> = Arc::default();
    let target = to.clone();
    // The good reply comes late, so that the flood is heard for most of a second each time.
    let answer = move |request: &Request| {
        *target.lock().unwrap() = Some(request.from);
        vec![Say::Wait(Duration::from_millis(700)), Say::This(request.good().to_vec())]
    };
    let server = Liar::new(answer);
    let place = Place::new();
    let daemon = place.start(&[server.address.to_string()], "");
    daemon.synchronised().unwrap();
    let (lines, before) = (place.log().lines().count(), daemon.status().unwrap());
    let (spent, start) = (daemon.processor_time(), Instant::now());
    let socket = server.socket();
    let (aim, end) = (to.clone(), stop.clone());
    let sprayer = std::thread::spawn(move || spray(&socket, &aim, &end));
    while start.elapsed() < lasts {
        // As often as the spacing allows, so that there is always somebody to flood.
        daemon.ask(&serde_json::json!({"do": "sync-now"}));
        std::thread::sleep(Duration::from_millis(200));
    }
    let share = (daemon.processor_time() - spent) / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let sent = sprayer.join().unwrap();
    let after = daemon.status().unwrap();
    let more = place.log().lines().count() - lines;
    let replies = |s: &serde_json::Value| s["servers"][0]["replies"].as_u64().unwrap_or(0);
    let used = replies(&after) - replies(&before);
    println!(
        "{sent} datagrams in {:.0} s: {:.1} % of one core, {used} good replies used, {more} lines \
         written; refused: {}",
        start.elapsed().as_secs_f64(),
        share * 100.0,
        after["servers"][0]["rejected"]
    );
    let refused = |s: &serde_json::Value| {
        let all = s["servers"][0]["rejected"].as_object().into_iter().flatten();
        all.filter_map(|(_, n)| n.as_u64()).sum::<u64>()
    };
    let heard = refused(&after) - refused(&before);
    // It listens for 0.7 s after each request, and asks once a second at most.
    let due = used * u64::from(PER_SECOND) * 7 / 10;
    assert!(sent as f64 > 0.9 * f64::from(PER_SECOND) * lasts.as_secs_f64(), "{sent} were sent");
    assert!(heard > due / 2, "of some {due} datagrams only {heard} were heard");
    assert!(share < 0.20 && used >= least && more <= 10, "{}", place.log());
    daemon.stop().unwrap();
}
